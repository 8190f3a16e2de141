"""The work of one job: what the enclave's session starts, fills, allows and listens to.

- `Work.prepare` comes before any key and any thread: it checks the public files, maps the memory,
  and forks the tokenizing child and the ranks. Afterwards the parent alone decrypts (`fill`).
- Ranks take no step above `allow_until`. What they make comes out as events, in plaintext; sealing
  is the session's.
- A rank that dies, a child that panics, a checkpoint that does not fit: one `Failed` event, and
  every other process of the work is killed.
"""

from __future__ import annotations

import array
import select
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final, TypeVar

from enclave_runtime.environment import set_process_environment
from enclave_runtime.events import (
    CheckpointReady,
    Evaluated,
    Failed,
    Finished,
    Generated,
    Ready,
    Stepped,
    Tokens,
    WorkEvent,
)
from enclave_runtime.pipes import Frame, write_frame
from enclave_runtime.ranks import RankChild, Seat, fork_ranks, join_world
from enclave_runtime.rows import Row, pack_rows
from enclave_runtime.scores import EvaluationParts, ReplyReference
from enclave_runtime.tokens import (
    CPU_SECONDS_MAX,
    LINE_BYTES_MAX,
    SERVE_CPU_SECONDS_MAX,
    RowError,
    TokensChild,
)
from enclave_runtime.workspace import SharedMap
from trust.artifacts import LENGTH_BYTES, ArtifactKind, ArtifactOpener, Manifest
from trust.encoding import Json, canonical_json
from trust.errors import BlindhostError, RefusedError, SessionError
from trust.jobs import InputRole, JobKind, JobManifest
from trust.model_files import check_model_files
from trust.serving import GenerateRequest

if TYPE_CHECKING:
    from enclave_runtime.serve_desk import Asked

__all__ = [
    "CheckpointReady",
    "Evaluated",
    "Failed",
    "Finished",
    "Generated",
    "Ready",
    "RowError",
    "Stepped",
    "Work",
    "WorkEvent",
]

T = TypeVar("T")

ROWS_FRAME_MAX: Final = 1024  # rows go to the ranks in pieces: they unpack while we tokenize
WEIGHTS_BYTES_MAX: Final = 1 << 40
ADAPTER_BYTES_MAX: Final = 1 << 31  # one frame to the rank holds it whole
_KINDS: Final = {
    InputRole.MODEL: ArtifactKind.WEIGHTS,
    InputRole.DATASET: ArtifactKind.DATASET,
    InputRole.HELDOUT: ArtifactKind.DATASET,
}


# --- work ----------------------------------------------------------------------------------------


class Work:
    """One job's processes and memory. Made by `prepare`, ended by `stop`."""

    def __init__(
        self,
        job: JobManifest,
        weights: SharedMap,
        tokens: TokensChild,
        ranks: list[RankChild],
        compute_class: str,
    ) -> None:
        self.compute_class = compute_class
        self._job, self._weights, self._tokens, self._ranks = job, weights, tokens, ranks
        self._filled: set[InputRole] = set()
        self._adapters = 0
        self._pending: dict[str, list[Row]] = {"dataset": [], "heldout": [], "prompts": []}
        self._references: list[ReplyReference] = []
        self._frames: deque[Frame] = deque()
        self._parts: dict[str, EvaluationParts] = {}
        self._done: set[int] = set()
        self._over = self._stopped = False
        self._poll = select.epoll()
        self._heard = {rank.rank for rank in ranks}
        for rank in ranks:
            self._poll.register(rank.reader.descriptor, select.EPOLLIN)
            self._poll.register(rank.pidfd, select.EPOLLIN)

    @classmethod
    def prepare(
        cls,
        job: JobManifest,
        manifests: Mapping[InputRole, Manifest],
        public_files: Mapping[str, bytes],
        *,
        generation: int,
    ) -> Work:
        """Check, map, fork: everything that must come before the first key.

        (1) The job is one that this image runs. (2) Its inputs are of the kinds that their roles
        want; adapters show what they are when they open. (3) The model's public files are data of
        the closed schema. (4) The tokenizing child is forked, and loads. (5) Memory for the weights
        is mapped, sized by the public manifest. (6) The ranks are forked.

        Left to the caller: that manifests are the job's, and public files the manifest's.
        Raises RefusedError, or an EncodingError that names file and key.
        """
        if job.enclaves != 1:  # (1)
            raise RefusedError("enclaves", f"a job of {job.enclaves} enclaves; this image runs 1")
        for role in {each.role for each in job.inputs} - {InputRole.ADAPTER}:  # (2)
            if manifests[role].core.kind is not _KINDS[role]:
                found = manifests[role].core.kind.value
                raise RefusedError("kind", f"input {role.value} is a {found}")
        files = check_model_files(public_files, template=job.template)  # (3)
        if job.length_max > files.context:
            raise RefusedError("length", f"{job.length_max} tokens; the model has {files.context}")
        set_process_environment()
        serves = job.kind is JobKind.SERVE
        tokens = TokensChild(  # (4)
            files,
            loss_on=job.recipe.loss_on,
            length_max=job.length_max,
            cpu_seconds=SERVE_CPU_SECONDS_MAX if serves else CPU_SECONDS_MAX,
        )
        try:
            size = manifests[InputRole.MODEL].padded_bytes - LENGTH_BYTES
            if not 0 < size <= WEIGHTS_BYTES_MAX:
                raise RefusedError("weights", f"{size} bytes; at most {WEIGHTS_BYTES_MAX}")
            from enclave_runtime.compute_class import compute_class
            from enclave_runtime.recipes.run import import_libraries, run_rank

            import_libraries()
            weights, found = SharedMap(size), compute_class(job)  # (5)

            def main(seat: Seat) -> None:
                accelerator = join_world(seat, wanted=job.world_size)
                run_rank(seat, accelerator, job, files, weights, generation, found)

            ranks = fork_ranks(job.local_ranks, main)  # (6)
        except BaseException:
            tokens.stop()
            raise
        return cls(job, weights, tokens, ranks, found)

    def fill(self, role: InputRole, opener: ArtifactOpener, read: Callable[[int], bytes]) -> None:
        """Decrypt an input: weights into the shared map, rows into tokens.

        `read(index)` gives ciphertext segments. Raises SealingError; RowError for a broken line;
        RefusedError for another number of rows than the manifest's.
        """
        if role is InputRole.ADAPTER:
            self._fill_adapter(opener, read)
            return
        if role in self._filled:
            raise SessionError(f"input {role.value} was filled before")
        self._filled.add(role)
        if role is InputRole.MODEL:
            self._weights.fill(opener, read)
            self._tell(Frame(kind="weights", fields={}))
            return
        count = 0
        for count, line in enumerate(_lines(opener, read), start=1):
            self._add_row(role, count, line)
        if role is InputRole.DATASET and count != self._job.rows:
            raise RefusedError("rows", f"{count} rows, the manifest says {self._job.rows}")
        if not count:
            raise RefusedError("rows", f"input {role.value} has no row")
        for name in self._pending:
            self._send_rows(name)

    def _fill_adapter(self, opener: ArtifactOpener, read: Callable[[int], bytes]) -> None:
        """Adapters come in the job's order, and are numbered from 1."""
        if opener.content_bytes > ADAPTER_BYTES_MAX:
            text = f"an adapter of {opener.content_bytes} bytes; at most {ADAPTER_BYTES_MAX}"
            raise RefusedError("adapter", text)
        content = b"".join(opener.open(index, read(index))[1] for index in range(len(opener)))
        self._adapters += 1
        self._tell(Frame(kind="adapter", fields={"index": self._adapters}, content=content))

    def begin(self, checkpoint: bytes | None) -> None:
        """Start, from a checkpoint's plaintext or from nothing. Every input is filled."""
        wanted = {each.role for each in self._job.inputs} - {InputRole.ADAPTER}
        if self._adapters != len(self._job.adapters):
            text = f"{self._adapters} adapters are filled, wanted {len(self._job.adapters)}"
            raise SessionError(text)
        if missing := wanted - self._filled:
            raise SessionError(f"inputs that are not filled: {', '.join(sorted(missing))}")
        self._tell(
            Frame(
                kind="begin", fields={"resumes": checkpoint is not None}, content=checkpoint or b""
            )
        )

    def allow_until(self, step: int) -> None:
        """Let the ranks take steps up to this one; may be raised at any time."""
        self._tell(Frame(kind="allow", fields={"step": step}))

    # --- serving ---------------------------------------------------------------------------------

    def prompt(self, request: GenerateRequest) -> bytes:
        """u32 token ids of a request's prompt. Raises RowError; SessionError once the child died.

        A broken prompt fails alone. A child that died answers nobody, and cannot be made again
        among secrets: the run ends.
        """
        if request.messages is not None:
            rows: list[Json] = [
                {"content": each.content, "role": each.role.value} for each in request.messages
            ]
            text, chat = canonical_json({"messages": rows}), True
        else:
            text, chat = (request.prompt or "").encode("utf-8"), False
        return self._of_child(lambda: self._tokens.ask_prompt(text, chat=chat))

    def decode(self, ids: bytes) -> str:
        """Text of u32 token ids. Raises RowError or SessionError, as `prompt`."""
        return self._of_child(lambda: self._tokens.decode(1, ids)) if ids else ""

    def _of_child(self, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except RowError as error:
            if self._tokens.ended:
                raise SessionError(f"the tokenizing child is gone: {error.text}") from error
            raise

    def ask(self, asked: Asked) -> None:
        """Put a request into the engine's batch."""
        fields = {
            "handle": asked.handle,
            "adapter": asked.adapter,
            "tokens_max": asked.tokens_max,
            "temperature": asked.temperature,
            "top_p": asked.top_p,
            "seed": asked.seed,
        }
        self._tell(Frame(kind="ask", fields=fields, content=asked.ids))

    def cancel(self, handle: int) -> None:
        """Take a request out of the engine's batch, wherever it is."""
        self._tell(Frame(kind="cancel", fields={"handle": handle}))

    # --- what happens ----------------------------------------------------------------------------

    def fileno(self) -> int:
        """Readable when events wait."""
        return self._poll.fileno()

    def events(self) -> list[WorkEvent]:
        """What happened since, without waiting."""
        if self._over:
            return []
        events: list[WorkEvent] = []
        try:
            for rank in self._ranks:
                for frame in rank.reader.read_waiting():
                    self._take(rank.rank, frame)
            events += self._drain()
            if not self._over:
                self._check_ranks()
        except (BlindhostError, EOFError) as error:
            events.append(self._fail(str(error)))
        return events

    def stop(self) -> None:
        """Kill every child, and erase the weights. May be called again."""
        if self._stopped:
            return
        self._over = self._stopped = True
        self._poll.close()
        for rank in self._ranks:
            rank.end()
        self._tokens.stop()
        self._weights.erase()

    # --- inputs ----------------------------------------------------------------------------------

    def _add_row(self, role: InputRole, number: int, line: bytes) -> None:
        row = self._tokens.row(number, line)
        if role is InputRole.DATASET:
            self._pending["dataset"].append(row)
        else:
            self._pending["heldout"].append(row)
            evaluation = self._job.recipe.evaluation
            if evaluation is not None and evaluation.reply_tokens_max:
                prompt, reply = self._tokens.prompt(number, line)
                self._pending["prompts"].append(prompt)
                self._references.append(ReplyReference(line=number, text=reply))
        if sum(map(len, self._pending.values())) >= ROWS_FRAME_MAX:
            for name in self._pending:
                self._send_rows(name)

    def _send_rows(self, name: str) -> None:
        if rows := self._pending[name]:
            self._tell(Frame(kind="rows", fields={"name": name}, content=pack_rows(rows)))
            rows.clear()

    def _tell(self, frame: Frame) -> None:
        """Say it to every rank; one that is gone shows in `events`."""
        for rank in self._ranks:
            try:
                write_frame(rank.control, frame)
            except BrokenPipeError:
                continue

    # --- events ----------------------------------------------------------------------------------

    def _take(self, rank: int, frame: Frame) -> None:
        """Sort a report: evaluations are put together from all ranks, the rest is rank 0's."""
        match frame.kind:
            case "failed":
                raise RefusedError("work", frame.fields["text"])
            case "evaluated":
                parts = self._parts.setdefault(frame.fields["phase"], EvaluationParts())
                parts.add(rank, frame)
                if rank == 0:  # its place among the other events
                    self._frames.append(frame)
            case "finished":
                self._done.add(rank)
                if rank == 0:
                    self._frames.append(frame)
            case _ if rank == 0:
                self._frames.append(frame)
            case "ready":
                pass
            case _:
                raise SessionError(f"rank {rank} reports {frame.kind!r}, which rank 0 alone does")

    def _drain(self) -> Iterator[WorkEvent]:
        """Events in rank 0's order; an evaluation that is not whole holds up what comes after."""
        while self._frames and not self._over:
            frame = self._frames[0]
            if frame.kind == "evaluated":
                phase = frame.fields["phase"]
                if len(self._parts[phase]) < self._job.world_size:
                    return
                yield self._evaluated(phase)
            else:
                yield self._event(frame)
            self._frames.popleft()

    def _event(self, frame: Frame) -> WorkEvent:
        match frame.kind:
            case "ready":
                return Ready()
            case "stepped":
                return Stepped(**frame.fields)
            case "checkpoint":
                return CheckpointReady(step=frame.fields["step"], content=frame.content)
            case "generated":
                return _generated(frame)
            case "finished":
                from enclave_runtime.recipes.state import tensors_digest

                self._over = True
                for rank in self._ranks:
                    self._mute(rank)
                digest = tensors_digest(frame.content) if frame.content else b""
                step = frame.fields["step"]
                return Finished(step=step, adapter=frame.content, tensors_digest=digest)
            case _:
                raise SessionError(f"rank 0 reports {frame.kind!r}")

    def _evaluated(self, phase: str) -> Evaluated:
        evaluation = self._job.recipe.evaluation
        assert evaluation is not None
        scores = self._parts[phase].scores(
            self._references, evaluation.header_ends_with, self._tokens.decode
        )
        return Evaluated(
            phase=phase,
            loss=scores.loss,
            tokens=scores.tokens,
            rows=scores.rows,
            exact_header=scores.exact_header,
            exact_whole=scores.exact_whole,
        )

    def _check_ranks(self) -> None:
        """Raises RefusedError if a rank ended before the job did."""
        for rank in self._ranks:
            if not rank.reader.ended or rank.status is not None:
                continue
            self._mute(rank)
            status = rank.reap()
            if rank.rank not in self._done:
                how = f"signal {-status}" if status < 0 else f"status {status}"
                raise RefusedError("work", f"rank {rank.rank} ended by {how} before the job did")

    def _mute(self, rank: RankChild) -> None:
        """Wait for nothing more of this rank: a pipe that ended is readable for ever."""
        if rank.rank in self._heard:
            self._heard.remove(rank.rank)
            self._poll.unregister(rank.reader.descriptor)
            self._poll.unregister(rank.pidfd)

    def _fail(self, text: str) -> Failed:
        self._over = True
        for rank in self._ranks:
            self._mute(rank)
            rank.end()
        return Failed(text=text)


def _generated(frame: Frame) -> Generated:
    ids, items, start = array.array("I", frame.content).tolist(), [], 0
    for handle, count, finish, text in frame.fields["items"]:
        mine = tuple(ids[start : start + count])
        items.append(Tokens(handle=handle, ids=mine, finish=finish, text=text))
        start += count
    return Generated(items=tuple(items))


def _lines(opener: ArtifactOpener, read: Callable[[int], bytes]) -> Iterator[bytes]:
    """The content's lines; only the last may lack its line feed."""
    rest, number = b"", 0
    for index in range(len(opener)):
        _start, content = opener.open(index, read(index))
        *whole, rest = (rest + content).split(b"\n")
        for line in whole:
            number += 1
            yield line
        if len(rest) > LINE_BYTES_MAX:
            raise RowError(number + 1, f"over {LINE_BYTES_MAX} bytes without a line's end")
    if rest:
        yield rest
