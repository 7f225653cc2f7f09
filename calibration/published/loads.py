"""How a published load was sent, where a case's rows are throughputs of a server: clients, prompts, answers, engine."""

from dataclasses import dataclass

# Schedulers that rows may be of: prompts are read beside decoding, or in passes of their own before it.
VLLM, SGLANG = SCHEDULERS = ("vllm", "sglang")


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Requests of clients that each send one, wait for all of its answer and send the next; and who serves them.

    isl, osl: tokens of a prompt, of an answer, on average. spread: of the logarithms of answers' lengths; 0: all are of
    one length. requests_per_client, least_requests: how many are sent in all. window_s: seconds after which all stops;
    answers that are cut count for nothing; None: all requests are answered. max_num_batched_tokens, max_num_seqs: of
    the engine; scheduler: of `SCHEDULERS`.
    """

    isl: float
    osl: float
    spread: float = 0.0
    requests_per_client: float = 10.0
    least_requests: int = 1
    window_s: float | None = None
    max_num_batched_tokens: int = 8192
    max_num_seqs: int = 1024
    scheduler: str = VLLM

    def requests(self, clients: int) -> int:
        """Return how many requests so many clients send."""
        return max(self.least_requests, round(self.requests_per_client * clients))
