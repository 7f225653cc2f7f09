"""How a published load was sent, where a case's rows are throughputs of a server: clients, prompts, answers, engine."""

from dataclasses import dataclass

# Schedulers that rows may be of: prompts are read beside decoding, or in passes of their own before it.
VLLM, SGLANG = SCHEDULERS = ("vllm", "sglang")


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Requests of clients that each send one, wait for all of its answer and send the next; and who serves them.

    isl, osl: tokens of a prompt, of an answer, on average. spread: of the logarithms of answers' lengths; 0: all are of
    one length; most: tokens of an answer at most. requests_per_client, least_requests: how many are sent in all.
    window_s: seconds from which on all stops with the first answer that ends; what is cut counts for nothing, and time
    is that from the first token to the last that counts; None: all requests are answered.
    max_num_batched_tokens, max_num_seqs: of the engine; scheduler: of `SCHEDULERS`. simulated: whether rows are
    forecast request by request, as they were sent; in closed form a load is taken to have lasted.
    """

    isl: float
    osl: float
    spread: float = 0.0
    most: int | None = None
    requests_per_client: float = 10.0
    least_requests: int = 1
    window_s: float | None = None
    max_num_batched_tokens: int = 8192
    max_num_seqs: int = 1024
    scheduler: str = VLLM
    simulated: bool = False

    def requests(self, clients: int) -> int:
        """Return how many requests so many clients send."""
        return max(self.least_requests, round(self.requests_per_client * clients))
