"""The demo's chat: a fresh enclave serves base and adapter, and the buyer talks to both.

The unmodified `openai` package speaks to the buyer's own `blindhost gateway`. On the way a host
seals a request of its own to the enclave, as well as it can: it holds the request key, which passed
through its hands, but no client's key.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
import time
from typing import Any, Final

from demo.jobs import ASSETS, JOB, SERVE_JOB
from demo.opening import START_SECONDS, Opening, read_json
from demo.parties import StepError

BASE: Final = "demo"
QUESTIONS: Final = 6
REPLY_TOKENS: Final = 96
SERVED_SECONDS: Final = 120.0


@dataclasses.dataclass(kw_only=True)
class Spoken:
    """What the buyer asked and got."""

    job: str = ""
    words: list[bytes] = dataclasses.field(default_factory=list)
    """Canaries of the prompts, and the replies: secrets of the buyer."""
    shown: list[dict[str, str]] = dataclasses.field(default_factory=list)
    """Question, what the base said, what the tuned model said."""
    requests: int = 0
    tokens: int = 0
    seconds: float = 0.0
    refused_unsigned: int = 0

    def report(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        return {
            "requests": self.requests,
            "tokens": self.tokens,
            "tokens_per_second": round(self.tokens / self.seconds, 1) if self.seconds else None,
            "refused_unsigned": self.refused_unsigned,
        }


class Chat(Opening):
    """Serving, as a buyer uses it."""

    spoken: Spoken

    def serve(self, adapter: str) -> None:
        """A serve job over base and adapter, and the gateway before it."""
        self.start_gateway()
        self.serve_adapter(adapter)

    def serve_adapter(self, adapter: str) -> None:
        """A serve job over base and adapter; returns once the gateway offers both."""
        self.spoken = Spoken()
        file = self.stage.home("buyer") / "serve.json"
        file.write_text(json.dumps(SERVE_JOB), encoding="utf-8")
        view = self.blindhost(
            "buyer", "job", "submit", str(file), "--model", self.model, "--adapter", adapter,
            "--image", self.measurement,
        )  # fmt: skip
        self.spoken.job = str(view["job"])
        self.stage.wait_for(
            "the tuned model is served",
            lambda: any(name.startswith("ft:") for name in self.model_names()),
            seconds=SERVED_SECONDS,
            watch=["gateway"],
        )

    def start_gateway(self, job: dict[str, Any] = JOB) -> None:
        """The gateway, with the demo's base under a name; a fine-tune through it is like `job`."""
        home = self.stage.home("buyer")
        base = {
            "model": self.model,
            "images": [self.measurement],
            "lineage": self.lineage,
            "kind": "simulated",
            "job": job,
        }
        config = home / "gateway.json"
        config.write_text(json.dumps({"models": {BASE: base}}), encoding="utf-8")
        self.stage.start(
            "gateway", "blindhost", "gateway", "--home", str(home), "--port", "0",
            "--config", str(config),
        )  # fmt: skip
        self.stage.wait_for(
            "the gateway listens",
            lambda: read_json(home / "gateway-endpoint.json"),
            seconds=START_SECONDS,
            watch=["gateway"],
        )

    @property
    def gateway_url(self) -> str:
        """Where it listens."""
        url: str = read_json(self.stage.home("buyer") / "gateway-endpoint.json")["url"]
        return url

    @property
    def gateway_key(self) -> str:
        """What it wants to be shown."""
        return (self.stage.home("buyer") / "gateway-key").read_text(encoding="utf-8").strip()

    def client(self) -> Any:
        """The unmodified `openai` client, told where the gateway is."""
        import openai

        return openai.OpenAI(
            base_url=f"{self.gateway_url}/v1", api_key=self.gateway_key, max_retries=2
        )

    def model_names(self) -> list[str]:
        """What the gateway says can be asked for."""
        with self.client() as client:
            return [each.id for each in client.models.list()]

    def talk(self) -> None:
        """Ask base and tuned model the same; each reply streams."""
        spoken = self.spoken
        tuned = next(name for name in self.model_names() if name.startswith("ft:"))
        with self.client() as client:
            for number, question in enumerate(questions(spoken)):
                said = {"question": question}
                for name in (BASE, tuned):
                    said["base" if name == BASE else "tuned"] = self.ask(client, name, question)
                spoken.shown.append(said)
                self.display.progress(
                    "base and tuned are asked", done=number + 1, total=QUESTIONS, detail=""
                )
        spoken.words += [
            reply.encode()
            for said in spoken.shown
            for reply in (said["base"], said["tuned"])
            if len(reply) >= 24  # a shorter one may stand anywhere
        ]

    def ask(self, client: Any, name: str, question: str) -> str:
        """One streamed reply, counted."""
        started, text, usage = time.monotonic(), "", None
        with client.chat.completions.create(
            model=name,
            messages=[{"role": "user", "content": question}],
            max_tokens=REPLY_TOKENS,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        ) as stream:
            for chunk in stream:
                usage = chunk.usage or usage
                text += "".join(choice.delta.content or "" for choice in chunk.choices)
        if usage is None:
            raise StepError(f"the reply of {name} said nothing of its tokens")
        self.spoken.requests += 1
        self.spoken.tokens += usage.completion_tokens
        self.spoken.seconds += time.monotonic() - started
        return text

    def ask_unsigned(self) -> None:
        """The host that carries this enclave's messages seals a request of its own to it."""
        host = self.host_of(self.spoken.job)
        said = self.stage.ask(
            "python", "-m", "demo.dishonest_door", "--home", str(self.stage.home(host)),
            "--record", str(self.stage.home("taps") / host), "--job", self.spoken.job,
        )  # fmt: skip
        self.display.note(f"{host} asked with a key of its own: {said['answer']}")
        self.spoken.refused_unsigned = int(said["answer"] == "client-unknown")

    def stop_serving(self) -> None:
        """The buyer closes the job; the enclave says its last, and the hold's rest comes back."""
        self.blindhost("buyer", "job", "stop", self.spoken.job)
        self.stage.stop("gateway")


def questions(spoken: Spoken) -> list[str]:
    """Held-out questions, each with a canary planted in it."""
    rows = (ASSETS / "eval.jsonl").read_text(encoding="utf-8").splitlines()[:QUESTIONS]
    made = []
    for row in rows:
        canary = f"chat-{secrets.token_hex(12)}"
        spoken.words.append(canary.encode())
        made.append(f"{json.loads(row)['messages'][0]['content']} Ref {canary}.")
    return made
