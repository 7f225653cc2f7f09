"""A model's name on the hub: one short question before transformers asks for every file with retries."""

from functools import lru_cache
from typing import Any

from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
)

# Of an answer; without a network there is none, and nothing to wait for.
TIMEOUT_S = 5.0
# Every model has it.
ASKED = "config.json"


@lru_cache
def where_to_load(name: str, revision: str | None, file: str = ASKED) -> dict[str, Any]:
    """Return the arguments of from_pretrained that say where a model of the hub is: there, or in the cache alone.

    file: one that the model has.

    Raises:
        ValueError: It is in neither; says why in a few words.
    """
    try:
        get_hf_file_metadata(hf_hub_url(name, file, revision=revision), timeout=TIMEOUT_S)
    except GatedRepoError:
        reason = "gated on the hub: accept its terms there and log in (hf auth login)"
    except RepositoryNotFoundError:
        reason = "no such folder, and no such model on the hub, or a private one (hf auth login)"
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError):
        return {}  # transformers says what the matter is, at once
    except Exception as error:  # of whatever library speaks to the hub
        reason = f"no such folder, nor in the local cache, and the hub cannot be reached ({type(error).__name__})"
    else:
        return {}
    if isinstance(try_to_load_from_cache(name, file, revision=revision), str):
        return {"local_files_only": True}
    raise ValueError(reason)
