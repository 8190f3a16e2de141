"""``/v1/files``: a dataset comes in as plaintext, and is sealed before its client is answered.

- The upload goes piece by piece into a file of its own in a private folder, which is removed
  whatever happens; what a killed process left there is removed when the routes are made again.
- A broken line is an error that names the line, and not what stands in it.
- ``purpose`` is ``fine-tune``: for anything else there is nothing here that would read the file.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from aiohttp import BodyPartReader, web

from client.dataset import RowError
from client.files import FILE_MODE, make_folder
from client.gateway.asked import missing
from client.gateway.errors import ApiError, unsupported, wrong
from client.gateway.pages import page
from client.gateway.ports import NotFoundError, StoredFile, TunePort

FILE_BYTES_MAX: Final = 512 << 20  # OpenAI's own limit
PURPOSE: Final = "fine-tune"
PARTS_MAX: Final = 8
FIELD_BYTES_MAX: Final = 256
FILES_LIMIT_MAX: Final = 10_000
UPLOAD_SECONDS_MAX: Final = 3600
_PREFIX: Final = "upload-"


def routes(
    port: TunePort, *, folder: Path | None = None, bytes_max: int = FILE_BYTES_MAX
) -> list[web.RouteDef]:
    """The five routes. `folder`: the home's private one for uploads; None: a fresh one, 0700."""
    return Files(port, folder, bytes_max).routes()


class Files:
    """The routes, over one port and one folder."""

    def __init__(self, port: TunePort, folder: Path | None, bytes_max: int) -> None:
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="blindhost-"))
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        make_folder(folder)
        for left in folder.glob(f"{_PREFIX}*"):
            left.unlink()
        self._port, self._folder, self._bytes_max = port, folder, bytes_max

    def routes(self) -> list[web.RouteDef]:
        """What clients ask."""
        return [
            web.post("/v1/files", self._create),
            web.get("/v1/files", self._list, allow_head=False),
            web.get("/v1/files/{file}", self._show, allow_head=False),
            web.get("/v1/files/{file}/content", self._content, allow_head=False),
            web.delete("/v1/files/{file}", self._delete),
        ]

    async def _create(self, request: web.Request) -> web.Response:
        """Take an upload, and seal it.

        (1) Parts are read in the order in which they come, each once: `purpose` and `file`.
        (2) The file is written as it comes, and never beyond its limit. (3) It is sealed only when
        both are there. (4) Its plaintext is gone before the answer.
        """
        if request.content_type != "multipart/form-data":
            raise wrong(None, "multipart/form-data with purpose and file is wanted")
        with self._temporary() as (path, target):
            try:
                async with asyncio.timeout(UPLOAD_SECONDS_MAX):
                    purpose, name = await self._receive(request, target)
            except TimeoutError as error:
                raise ApiError(400, "body_late", "the upload did not end in an hour") from error
            except (ValueError, web.RequestPayloadError, ConnectionError) as error:
                raise wrong(None, "the body is no whole multipart/form-data") from error
            target.flush()
            try:
                stored = await self._port.add_file(path, name=name, purpose=purpose)  # (3)
            except RowError as error:
                raise wrong("file", f"{name[:128]}: {error}", "invalid_file") from error
        return web.json_response(shown(stored))

    async def _receive(self, request: web.Request, target: BinaryIO) -> tuple[str, str]:
        """Purpose and file name, once the file is in `target`."""
        purpose = name = None
        reader = await request.multipart()
        for _ in range(PARTS_MAX):  # (1)
            part = await reader.next()
            if part is None:
                break
            if not isinstance(part, BodyPartReader):
                raise wrong(None, "a part within a part")
            if part.name == "purpose" and purpose is None:
                purpose = await _text(part)
                if purpose != PURPOSE:
                    raise wrong("purpose", f"purpose is {PURPOSE!r} here, nothing else")
            elif part.name == "file" and name is None:
                name = part.filename or "file"
                await self._write(part, target)  # (2)
            elif part.name in {"purpose", "file"}:
                raise wrong(part.name, f"{part.name} comes twice")
            else:
                raise unsupported(part.name or "a part without a name")
        else:
            raise wrong(None, f"over {PARTS_MAX} parts")
        if purpose is None:
            raise missing("purpose")
        if name is None:
            raise missing("file")
        return purpose, name

    async def _write(self, part: BodyPartReader, target: BinaryIO) -> None:
        if part.headers.get("Content-Transfer-Encoding", "binary").lower() not in {
            "binary",
            "8bit",
            "7bit",
        }:
            raise wrong("file", "the file comes as it is, without an encoding")
        size = 0
        while piece := await part.read_chunk(1 << 16):
            size += len(piece)
            if size > self._bytes_max:
                raise ApiError(
                    413, "too_large", f"a file has at most {self._bytes_max} bytes", param="file"
                )
            target.write(piece)

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[tuple[Path, BinaryIO]]:
        """A file that is there for as long as this lasts."""
        path = self._folder / f"{_PREFIX}{secrets.token_hex(16)}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
        try:
            with os.fdopen(descriptor, "wb") as target:
                yield path, target
        finally:
            path.unlink(missing_ok=True)  # (4)

    async def _list(self, request: web.Request) -> web.Response:
        """A page of files, newest first."""
        purpose = request.query.get("purpose")
        found = [each for each in await self._port.files() if purpose in {None, each.purpose}]
        shown_files = [shown(each) for each in found]
        return web.json_response(
            page(request.query, shown_files, "purpose", limit=FILES_LIMIT_MAX, most=FILES_LIMIT_MAX)
        )

    async def _show(self, request: web.Request) -> web.Response:
        """One file."""
        return web.json_response(shown(await self._file(request)))

    async def _content(self, request: web.Request) -> web.StreamResponse:
        """A file's plaintext. If it does not open to its end, the connection breaks."""
        file = await self._file(request)
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        response.content_length = file.size
        pieces = aiter(self._port.read_file(file.id))
        first = await anext(pieces, b"")  # what does not open at all is an answer, not a cut
        await response.prepare(request)
        try:
            await response.write(first)
            async for piece in pieces:
                await response.write(piece)
        except BaseException:
            if request.transport is not None:
                request.transport.abort()
            raise
        await response.write_eof()
        return response

    async def _delete(self, request: web.Request) -> web.Response:
        """Forget one."""
        file = request.match_info["file"]
        await self._port.delete_file(file)
        return web.json_response({"id": file, "object": "file", "deleted": True})

    async def _file(self, request: web.Request) -> StoredFile:
        return find(await self._port.files(), request.match_info["file"])


def find(files: Sequence[StoredFile], file: str) -> StoredFile:
    """The file of this id. Raises NotFoundError."""
    for each in files:
        if each.id == file:
            return each
    raise NotFoundError(f"no file {file[:64]!r} here")


def shown(file: StoredFile) -> dict[str, object]:
    """As OpenAI's clients read it."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size,
        "created_at": file.created_at,
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
    }


async def _text(part: BodyPartReader) -> str:
    data = bytearray()
    while piece := await part.read_chunk(1024):
        data += piece
        if len(data) > FIELD_BYTES_MAX:
            raise wrong(part.name, f"{part.name} has over {FIELD_BYTES_MAX} bytes")
    return bytes(data).decode("utf-8", "replace")
