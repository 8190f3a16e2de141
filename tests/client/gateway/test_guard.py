"""Attack 16: any page, and any other user of this machine, can reach the gateway's socket."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import subprocess
import sys

import aiohttp
import pytest

from client.gateway.app import build_app, serve
from client.gateway.guard import BODY_BYTES_MAX, check_host, new_key
from tests.client.gateway.fakes import BASE, FakeServePort, FakeTunePort
from tests.client.gateway.rig import gateway

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
CHAT = {"model": BASE, "messages": [{"role": "user", "content": "hi"}]}


def paths() -> list[str]:
    """Every path of the tables with its parts filled in, and some that are in none."""
    app = build_app(serve_port=FakeServePort(), tune_port=FakeTunePort(), key=new_key())
    found = {each.resource.canonical for each in app.router.routes() if each.resource is not None}
    filled = {re.sub(r"\{[^}]*\}", "abc", each) for each in found}
    return sorted(filled | {"/", "/v1", "/v1/nothing", "/favicon.ico", "/api/nothing/at/all"})


def test_tables_of_all_three_modules_are_there():
    found = paths()
    assert {"/v1/chat/completions", "/v1/models/abc", "/api/jobs/", "/v1/fine_tuning/jobs"} <= set(
        found
    )
    assert len(found) > 20


async def refused(method: str, kind: str, status: int) -> None:
    async with gateway() as gate:
        good = gate.headers | {"Content-Type": "application/json"}
        headers = {
            "no key": {"Content-Type": "application/json"},
            "wrong key": good | {"Authorization": f"Bearer {new_key()}"},
            "foreign host": good | {"Host": f"evil.example:{gate.port}"},
            "origin": good | {"Origin": "https://evil.example"},
            "own origin": good | {"Origin": gate.url},
            "fetched": good | {"Sec-Fetch-Site": "cross-site"},
            "text": gate.headers | {"Content-Type": "text/plain"},
        }[kind]
        for path in paths():
            async with gate.http.request(
                method, gate.url + path, data=b'{"model": "x"}', headers=headers
            ) as response:
                assert response.status == status, path
                assert response.headers["x-request-id"]
                assert not [each for each in response.headers if "access-control" in each.lower()]
        assert gate.calls == []


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("no key", 401),
        ("wrong key", 401),
        ("foreign host", 403),
        ("origin", 403),
        ("own origin", 403),
        ("fetched", 403),
        ("text", 415),
    ],
)
async def test_every_route_and_method_refuses_and_does_nothing(method, kind, status):
    await refused(method, kind, status)


async def test_the_same_request_with_key_and_type_is_answered():
    async with gateway() as gate:
        assert (await gate.post("/v1/chat/completions", CHAT)).status == 200
        assert gate.serving.bodies


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",  # no port
        "127.0.0.1:1",
        "127.0.0.1:{port}0",
        "127.0.0.1.evil.example:{port}",
        "localhost.evil.example:{port}",
        "evil.example",
        "0.0.0.0:{port}",
        "",
    ],
)
async def test_a_host_that_is_not_this_socket_is_refused(host):
    async with gateway() as gate:
        lines = [
            "GET /v1/models HTTP/1.1",
            f"Host: {host.format(port=gate.port)}",
            f"Authorization: Bearer {gate.key}",
        ]
        assert (await raw(gate.port, lines)).startswith("HTTP/1.1 403")
        assert gate.calls == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
async def test_a_host_that_is_loopback_is_served(host):
    async with gateway() as gate:
        headers = gate.headers | {"Host": f"{host}:{gate.port}"}
        async with gate.http.get(f"{gate.v1}/models", headers=headers) as response:
            assert response.status == 200


@pytest.mark.parametrize(
    ("target", "lines"),
    [
        ("http://evil.example/v1/models", ["Host: 127.0.0.1:{port}"]),
        ("/v1/models", ["Host: 127.0.0.1:{port}", "Host: evil.example"]),
        ("/v1/models", []),
    ],
)
async def test_other_ways_to_say_a_host_are_refused(target, lines):
    async with gateway() as gate:
        said = [f"GET {target} HTTP/1.1", *(each.format(port=gate.port) for each in lines)]
        answer = await raw(gate.port, [*said, f"Authorization: Bearer {gate.key}"])
        assert re.match(r"HTTP/1\.[01] 40[03]", answer)
        assert gate.calls == []


@pytest.mark.parametrize(
    "authorizations",
    [
        ["Basic {key}"],
        ["{key}"],
        ["Bearer"],
        ["Bearer {key}x"],
        ["Bearer \u00e9\u00e9"],
        ["Bearer {key}", "Bearer {key}"],
        ["Bearer wrong", "Bearer {key}"],
    ],
)
async def test_a_key_said_otherwise_is_no_key(authorizations):
    async with gateway() as gate:
        lines = ["GET /v1/models HTTP/1.1", f"Host: 127.0.0.1:{gate.port}"]
        lines += [f"Authorization: {each.format(key=gate.key)}" for each in authorizations]
        answer = await raw(gate.port, lines)
        assert answer.startswith("HTTP/1.1 40")
        assert gate.key not in answer
        assert gate.calls == []


async def test_a_websocket_without_the_key_is_refused():
    async with gateway() as gate:
        with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
            await gate.http.ws_connect(f"{gate.url}/api/jobs/abc/logs/tail")
        assert gate.calls == []


async def test_a_navigation_of_the_browser_itself_still_needs_the_key():
    async with gateway() as gate:
        headers = {"Sec-Fetch-Site": "none"}
        async with gate.http.get(f"{gate.v1}/models", headers=headers) as response:
            assert response.status == 401
        async with gate.http.get(f"{gate.v1}/models", headers=headers | gate.headers) as response:
            assert response.status == 200
            assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("path", "kind", "status"),
    [
        ("/v1/chat/completions", "multipart/form-data; boundary=x", 415),
        ("/v1/chat/completions", "application/x-www-form-urlencoded", 415),
        ("/v1/chat/completions", "application/json, text/plain", 415),
        ("/v1/chat/completions", None, 415),
        ("/v1/files", "application/json", 415),
        ("/api/jobs/", "multipart/form-data; boundary=x", 415),
    ],
)
async def test_a_body_of_another_type_than_its_route_reads_is_refused(path, kind, status):
    async with gateway() as gate:
        headers = gate.headers | ({} if kind is None else {"Content-Type": kind})
        async with gate.http.post(gate.url + path, data=b"{}", headers=headers) as response:
            assert response.status == status
        assert gate.calls == []


async def test_a_body_that_would_unfold_is_refused():
    async with gateway() as gate:
        answer = await gate.post("/v1/chat/completions", CHAT, Content_Encoding="gzip")
        assert answer.status == 415
        assert gate.calls == []


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_a_body_beyond_its_limit_is_refused_before_it_is_read_as_json(is_chunked):
    body = b" " * (BODY_BYTES_MAX + 1)

    async def chunks():
        for start in range(0, len(body), 1 << 16):
            yield body[start : start + (1 << 16)]

    async with gateway() as gate:
        headers = gate.headers | {"Content-Type": "application/json"}
        data = chunks() if is_chunked else io.BytesIO(body)
        async with gate.http.post(
            f"{gate.v1}/chat/completions", data=data, headers=headers
        ) as response:
            assert response.status == 413
            assert (await response.json())["error"]["code"] == "too_large"
        assert gate.calls == []


async def test_unknown_routes_and_methods_answer_in_the_same_shape():
    async with gateway() as gate:
        missing = await gate.get("/v1/nothing")
        assert (missing.status, missing.error["type"]) == (404, "not_found_error")
        method = await gate.get("/v1/chat/completions")
        assert (method.status, method.headers["Allow"]) == (405, "POST")


async def test_a_head_that_does_not_come_ends_its_connection(monkeypatch):
    monkeypatch.setattr("client.gateway.app.HEADER_SECONDS", 0.1)
    async with gateway() as gate:
        reader, writer = await asyncio.open_connection("127.0.0.1", gate.port)
        writer.write(b"GET /v1/models HTTP/1.1\r\nHost: ")
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()


async def test_a_connection_whose_head_came_outlives_that_time(monkeypatch):
    monkeypatch.setattr("client.gateway.app.HEADER_SECONDS", 0.1)
    async with gateway() as gate:
        go = asyncio.Event()
        gate.serving.script.insert(0, go)
        asyncio.get_running_loop().call_later(0.3, go.set)
        assert (await gate.post("/v1/chat/completions", CHAT)).status == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "10.0.0.1", "example.com", ""])
async def test_it_listens_on_loopback_alone(host):
    with pytest.raises(ValueError, match="not loopback"):
        await serve(
            serve_port=FakeServePort(),
            tune_port=FakeTunePort(),
            key=new_key(),
            port=0,
            host=host,
            on_ready=lambda url: pytest.fail(f"listens on {url}"),
        )


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_has_these_names(host):
    check_host(host)


def test_keys_are_long_and_never_twice_the_same():
    assert len({new_key() for _ in range(64)}) == 64
    assert len(new_key()) >= 43


@pytest.mark.parametrize("key", ["", "sk-x", "x" * 31])
def test_a_key_that_could_be_guessed_starts_nothing(key):
    with pytest.raises(ValueError, match="characters"):
        build_app(serve_port=FakeServePort(), tune_port=FakeTunePort(), key=key)


async def test_a_body_that_does_not_come_is_refused(monkeypatch):
    monkeypatch.setattr("client.gateway.guard.BODY_SECONDS_MAX", 0.1)
    async with gateway() as gate:
        lines = [
            "POST /v1/chat/completions HTTP/1.1",
            f"Host: 127.0.0.1:{gate.port}",
            f"Authorization: Bearer {gate.key}",
            "Content-Type: application/json",
            "Content-Length: 100",
        ]
        reader, writer = await asyncio.open_connection("127.0.0.1", gate.port)
        writer.write("\r\n".join([*lines, "", "{"]).encode())
        answer = await reader.readuntil(b"}}")
        writer.close()
        assert answer.startswith(b"HTTP/1.1 400")
        assert b"body_late" in answer
        assert gate.calls == []


def test_the_gateway_loads_no_tensor_library():
    code = (
        "import sys, client.gateway.app\n"
        "heavy = {'torch', 'ray', 'openai', 'transformers', 'numpy'} & set(sys.modules)\n"
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


async def raw(port: int, lines: list[str]) -> str:
    """Send a head as it stands, and read the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.decode("utf-8", "replace")
