"""Files by OpenAI's unmodified client: sealed at once, and no plaintext stays behind."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import openai
import pytest

from client.files import make_folder, write_durably
from client.gateway.ports import NotFoundError
from tests.client.gateway.fakes import FakeTunePort
from tests.client.gateway.tune_rig import ROW, ROWS, body_of, left_in, served
from trust.errors import SealingError


@pytest.fixture
def port() -> FakeTunePort:
    return FakeTunePort()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "uploads"


async def posted(port: FakeTunePort, folder: Path, form: aiohttp.FormData) -> tuple[int, dict]:
    """A form that OpenAI's client would not send."""
    async with (
        served(port, folder) as client,
        aiohttp.ClientSession() as http,
        http.post(f"{client.base_url}files", data=form) as response,
    ):
        return response.status, await response.json()


async def test_file_is_uploaded_shown_read_and_deleted(port: FakeTunePort, folder: Path) -> None:
    async with served(port, folder) as client:
        made = await client.files.create(file=("rows.jsonl", ROWS), purpose="fine-tune")
        assert (made.filename, made.bytes, made.purpose) == ("rows.jsonl", len(ROWS), "fine-tune")
        assert (made.object, made.status) == ("file", "processed")
        assert made.id.startswith("file-")
        assert await client.files.retrieve(made.id) == made
        assert await client.files.wait_for_processing(made.id) == made
        assert (await client.files.content(made.id)).read() == ROWS
        deleted = await client.files.delete(made.id)
        assert (deleted.id, deleted.deleted) == (made.id, True)
        with pytest.raises(openai.NotFoundError):
            await client.files.retrieve(made.id)
        with pytest.raises(openai.NotFoundError):
            await client.files.content(made.id)
        with pytest.raises(openai.NotFoundError):
            await client.files.delete(made.id)
    assert left_in(folder) == []


async def test_optional_fields_of_a_file_are_absent_not_null(
    port: FakeTunePort, folder: Path
) -> None:
    async with served(port, folder) as client:
        made = await client.files.create(file=("rows.jsonl", ROWS), purpose="fine-tune")
        assert made.model_fields_set == {
            "id",
            "object",
            "bytes",
            "created_at",
            "filename",
            "purpose",
            "status",
        }


async def test_broken_line_is_named_and_what_stands_in_it_is_not(
    port: FakeTunePort, folder: Path
) -> None:
    content = (ROW * 6 + '{"secret": 1}\n' + ROW).encode()
    async with served(port, folder) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.files.create(file=("rows.jsonl", content), purpose="fine-tune")
    error = body_of(caught.value)
    assert (error["param"], error["type"]) == ("file", "invalid_request_error")
    assert "line 7: " in error["message"]
    assert "secret" not in error["message"]
    assert await port.files() == []
    assert left_in(folder) == []


@pytest.mark.parametrize("order", [("purpose", "file"), ("file", "purpose")])
async def test_purpose_may_come_before_or_after_the_file(
    port: FakeTunePort, folder: Path, order: tuple[str, str]
) -> None:
    form = aiohttp.FormData()
    for name in order:
        if name == "file":
            form.add_field("file", ROWS, filename="rows.jsonl")
        else:
            form.add_field("purpose", "fine-tune")
    status, answer = await posted(port, folder, form)
    assert status == 200, answer
    [stored] = await port.files()
    assert stored.rows == 3


BROKEN = {
    "no purpose": {"file": ROWS},
    "no file": {"purpose": b"fine-tune"},
    "another purpose": {"purpose": b"assistants", "file": ROWS},
    "a long purpose": {"purpose": b"x" * 1000, "file": ROWS},
    "an unknown field": {"purpose": b"fine-tune", "expires_after[anchor]": b"created_at"},
}


@pytest.mark.parametrize("what", sorted(BROKEN))
async def test_form_that_lacks_or_adds_a_field_seals_nothing(
    port: FakeTunePort, folder: Path, what: str
) -> None:
    form = aiohttp.FormData(default_to_multipart=True)
    for name, value in BROKEN[what].items():
        form.add_field(name, value.decode(), filename="rows.jsonl" if name == "file" else None)
    status, answer = await posted(port, folder, form)
    assert status == 400, answer
    assert answer["error"]["message"]
    assert "add_file" not in port.calls
    assert left_in(folder) == []


async def test_body_that_is_no_form_seals_nothing(port: FakeTunePort, folder: Path) -> None:
    good = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune'
    async with served(port, folder) as client, aiohttp.ClientSession() as http:
        for kind, data in (
            ("application/json", b"{}"),
            ("multipart/form-data", good),
            ("multipart/form-data; boundary=y", good),
            ("multipart/form-data; boundary=x", good),
        ):
            headers = {"Content-Type": kind}
            url = f"{client.base_url}files"
            async with http.post(url, data=data, headers=headers) as response:
                assert response.status == 400, (kind, await response.text())
    assert "add_file" not in port.calls
    assert left_in(folder) == []


async def test_file_beyond_the_limit_is_cut_off_while_it_comes(
    port: FakeTunePort, folder: Path
) -> None:
    async with served(port, folder, bytes_max=len(ROWS)) as client:
        await client.files.create(file=("rows.jsonl", ROWS), purpose="fine-tune")
        with pytest.raises(openai.APIStatusError) as caught:
            await client.files.create(file=("rows.jsonl", ROWS + b" "), purpose="fine-tune")
    assert caught.value.status_code == 413
    assert port.calls.count("add_file") == 1
    assert left_in(folder) == []


async def test_plaintext_is_gone_when_sealing_fails_and_private_while_it_lasts(
    folder: Path,
) -> None:
    modes = []

    class Failing(FakeTunePort):
        async def add_file(self, path, *, name, purpose):
            assert path.read_bytes() == ROWS
            modes.extend([path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777])
            raise SealingError("the disk is full")

    async with served(Failing(), folder) as client:
        with pytest.raises(openai.InternalServerError):
            await client.files.create(file=("rows.jsonl", ROWS), purpose="fine-tune")
    assert modes == [0o600, 0o700]
    assert left_in(folder) == []


async def test_plaintext_that_a_killed_gateway_left_is_removed_at_the_next_start(
    port: FakeTunePort, folder: Path
) -> None:
    make_folder(folder)
    write_durably(folder / "upload-0", ROWS)
    async with served(port, folder):
        assert left_in(folder) == []


async def test_files_are_paged_newest_first_and_chosen_by_purpose(
    port: FakeTunePort, folder: Path
) -> None:
    async with served(port, folder) as client:
        for number in range(5):
            await client.files.create(file=(f"{number}.jsonl", ROWS), purpose="fine-tune")
            port.tick()
        first = await client.files.list(limit=2)
        assert [each.filename for each in first.data] == ["4.jsonl", "3.jsonl"]
        assert first.has_more
        names = [each.filename async for each in client.files.list(limit=2)]
        assert names == ["4.jsonl", "3.jsonl", "2.jsonl", "1.jsonl", "0.jsonl"]
        oldest = await client.files.list(limit=1, order="asc")
        assert oldest.data[0].filename == "0.jsonl"
        assert (await client.files.list(purpose="batch")).data == []
        for query in ({"limit": 0}, {"limit": 10_001}, {"after": "file-x"}, {"order": "up"}):
            with pytest.raises(openai.BadRequestError):
                await client.files.list(**query)
        with pytest.raises(openai.BadRequestError, match="strange"):
            await client.files.list(extra_query={"strange": "1"})


async def test_content_that_does_not_open_to_its_end_breaks_the_connection(folder: Path) -> None:
    class Breaking(FakeTunePort):
        async def read_file(self, file):
            yield ROWS[:10]
            raise SealingError("a segment was changed")

    async with served(Breaking(), folder) as client:
        made = await client.files.create(file=("rows.jsonl", ROWS), purpose="fine-tune")
        with pytest.raises(openai.APIConnectionError):
            await client.files.content(made.id)


async def test_content_that_does_not_open_at_all_is_an_error(folder: Path) -> None:
    class Closed(FakeTunePort):
        async def read_file(self, file):
            raise NotFoundError("its lineage was shredded")
            yield b""

    async with served(Closed(), folder) as client:
        made = await client.files.create(file=("rows.jsonl", ROWS), purpose="fine-tune")
        with pytest.raises(openai.NotFoundError, match="shredded"):
            await client.files.content(made.id)
