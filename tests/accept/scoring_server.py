"""A server on loopback that runs a real small model and answers as vLLM 0.32 does, or as SGLang."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from acceptance.text.conversation import answer_text
from tests.calib.made_server import MadeServer, refusal

Answer = dict[str, Any] | bytes


class ScoringServer(MadeServer):
    """change: what is done to an answer before it is sent, by path; sent: paths and bodies that came."""

    def __init__(self, folder: Path, kind: str = "vllm", *, longest: int = 128, name: str = "org/m") -> None:
        super().__init__()
        self.network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.kind, self.longest, self.name = kind, longest, name
        self.change: Callable[[str, dict[str, Any], Answer], Answer | None] = lambda path, body, answer: answer
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.at_once = self.most_at_once = 0
        self.wait_s = 0.001

    async def one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        length = next((int(line[15:]) for line in lines if line.lower().startswith(b"content-length:")), 0)
        raw = await reader.readexactly(length)
        path, body = lines[0].split()[1].decode(), json.loads(raw or b"{}")
        self.sent.append((path, body))
        self.headers.append(head)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(self.wait_s)
        answer = self.change(path, body, self.answer(path, body))
        self.at_once -= 1
        if answer is None:
            return False
        if isinstance(answer, dict):
            answer = refusal(200, json.dumps(answer).encode()).replace(b" No", b" OK", 1)
        writer.write(answer)
        await writer.drain()
        return True

    def answer(self, path: str, body: dict[str, Any]) -> Answer:
        if path == "/v1/models":
            entry = {"id": self.name, "object": "model", "owned_by": self.kind, "max_model_len": self.longest}
            return {"object": "list", "data": [entry]}
        if path == "/tokenize":
            text = body["prompt"] if "prompt" in body else "\n".join(m["content"] for m in body["messages"])
            tokens = self.tokenizer(text).input_ids
            return {"count": len(tokens), "max_model_len": self.longest, "tokens": tokens, "token_strs": None}
        if (path, self.kind) == ("/v1/completions", "vllm"):
            return self.completion(body)
        if (path, self.kind) == ("/generate", "sglang"):
            return self.generated(body)
        return refusal(404, b'{"detail": "Not Found"}')

    @torch.inference_mode()
    def logs(self, tokens: list[int]) -> torch.Tensor:
        """ln p of what follows each token, [tokens, vocabulary]."""
        return self.network(torch.tensor([tokens])).logits[0].float().log_softmax(-1)

    def written(self, before: list[int], tokens: int, temperature: float, seed: int = 0) -> list[int]:
        generator, found = torch.Generator().manual_seed(seed), list(before)
        for _ in range(tokens):
            logs = self.logs(found)[-1]
            greedy = temperature == 0
            found.append(int(logs.argmax() if greedy else torch.multinomial(logs.exp(), 1, generator=generator)))
        return found[len(before) :]

    def completion(self, body: dict[str, Any]) -> Answer:
        prompt = body["prompt"]
        if len(prompt) + body["max_tokens"] > self.longest:
            return refusal(400, b'{"error": {"message": "too long", "type": "BadRequestError"}}')
        tokens = self.written(prompt, body["max_tokens"], body["temperature"], body.get("seed", 0))
        choice = {
            "index": 0,
            "text": answer_text(self.tokenizer, prompt, tokens),
            "logprobs": None,
            "finish_reason": "length",
        }
        choice |= {"stop_reason": None, "prompt_logprobs": None}
        choice["token_ids"] = tokens if body.get("return_token_ids") else None
        choice["prompt_token_ids"] = prompt if body.get("return_token_ids") else None
        if (listed := body.get("prompt_logprobs")) is not None:
            choice["prompt_logprobs"] = [None, *self.listed(prompt, listed)]
        usage = {"prompt_tokens": len(prompt), "total_tokens": len(prompt) + len(tokens)}
        return {"id": "cmpl-0", "object": "text_completion", "model": self.name, "choices": [choice], "usage": usage}

    def listed(self, tokens: list[int], count: int) -> list[dict[str, Any]]:
        """prompt_logprobs of vLLM: a token's own first, then the likeliest, which overwrite it."""
        found = []
        for logs, token in zip(self.logs(tokens)[:-1], tokens[1:], strict=True):
            own = {"logprob": float(logs[token]), "rank": int((logs >= logs[token]).sum())}
            entries = {str(token): own | {"decoded_token": self.tokenizer.convert_ids_to_tokens(token)}}
            for rank, (log, other) in enumerate(zip(*logs.topk(count), strict=True), 1):
                name = self.tokenizer.convert_ids_to_tokens(int(other))
                entries[str(int(other))] = {"logprob": float(log), "rank": rank, "decoded_token": name}
            found.append(entries)
        return found

    def generated(self, body: dict[str, Any]) -> Answer:
        prompt, sampling = body["input_ids"], body["sampling_params"]
        tokens = self.written(prompt, sampling["max_new_tokens"], sampling["temperature"])
        about: dict[str, Any] = {"finish_reason": {"type": "length"}, "prompt_tokens": len(prompt)}
        about["output_token_logprobs"] = [[-1.0, token, None] for token in tokens]
        if (start := body["logprob_start_len"]) >= 0:
            logs = self.logs(prompt)[start:-1]
            own = [[float(at[t]), t, f"w{t}"] for at, t in zip(logs, prompt[start + 1 :], strict=True)]
            about["input_token_logprobs"] = [[None, prompt[start], None], *own]
            tops = [[[float(v), int(i), f"w{i}"] for v, i in zip(*at.topk(2), strict=True)] for at in logs]
            about["input_top_logprobs"] = [None, *tops]
        return {"text": answer_text(self.tokenizer, prompt, tokens), "meta_info": about, "output_ids": tokens}
