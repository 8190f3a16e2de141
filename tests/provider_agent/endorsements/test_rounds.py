"""What a round asks for, keeps, and says is missing, against services that misbehave."""

from __future__ import annotations

import asyncio
import datetime as dt
import email.utils

import pytest
from aiohttp import web

from provider_agent.endorsements.errors import EndorsementError, MissingError
from provider_agent.endorsements.fetch import ATTEMPTS_MAX, WAIT_SECONDS_MAX
from provider_agent.endorsements.rounds import carried, import_file
from provider_agent.endorsements.shapes import GPU, SNP, TDX, TDX_KINDS
from provider_agent.endorsements.store import NOTES_FILE
from provider_agent.endorsements.subjects import SnpSubject, Wanted
from tests.provider_agent.endorsements import minted
from tests.provider_agent.endorsements import rig as rigs
from tests.provider_agent.endorsements.minted import DAY, NOW
from tests.provider_agent.endorsements.rig import CRL, Rig, says
from trust.evidence.claims import Product

# --- good ----------------------------------------------------------------------------------------


async def test_a_first_round_brings_everything_and_carries_it_in_the_kinds_of_the_verifiers(
    rig: Rig,
) -> None:
    rig.store.want(rigs.everything())
    done = await rig.round()
    assert set(rig.states(done).values()) == {"good"}
    found = carried(rig.store, (SNP, TDX, GPU), NOW)
    kinds = [each.kind for each in found]
    assert kinds[:4] == ["vcek", "ask", "ark", "crl"]
    assert tuple(kinds[4:11]) == TDX_KINDS
    assert kinds[11:] == ["gpu-rim", "gpu-ocsp", "gpu-ocsp", "gpu-ocsp"]  # leaf, model; RIM's
    content = dict(zip(kinds, (each.content for each in found), strict=True))
    assert {k: content[k] for k in minted.amd()} == minted.amd()
    assert {k: content[k] for k in TDX_KINDS} == minted.intel()
    assert content["gpu-rim"] == minted.rim()


async def test_the_vcek_is_asked_for_by_product_chip_and_levels(rig: Rig) -> None:
    await rig.round(rigs.snp_alone())
    subject = minted.snp_subject()
    tcb = subject.tcb
    assert rig.asked[0] == (
        f"/vcek/v1/Genoa/{subject.chip_id.hex()}"
        f"?blSPL={tcb[0]:02d}&teeSPL={tcb[1]:02d}&snpSPL={tcb[6]:02d}&ucodeSPL={tcb[7]:02d}"
    )


async def test_a_turin_is_asked_for_by_eight_bytes_and_five_levels(rig: Rig) -> None:
    subject = minted.snp_subject(Product.TURIN)
    await rig.round(Wanted(snp=subject))
    tcb = subject.tcb
    assert rig.asked[0] == (
        f"/vcek/v1/Turin/{subject.chip_id[:8].hex()}?fmcSPL={tcb[0]:02d}&blSPL={tcb[1]:02d}"
        f"&teeSPL={tcb[2]:02d}&snpSPL={tcb[3]:02d}&ucodeSPL={tcb[7]:02d}"
    )


async def test_a_second_round_asks_for_nothing(rig: Rig) -> None:
    await rig.round()
    asked = len(rig.asked)
    done = await rig.round()
    assert (len(rig.asked), done.asked) == (asked, 0)


async def test_lists_are_asked_for_again_after_a_day_and_certificates_are_not(rig: Rig) -> None:
    await rig.round()
    rig.asked.clear()
    rig.now = NOW + DAY
    await rig.round()
    paths = {each.partition("?")[0] for each in rig.asked}
    assert paths == {
        CRL,
        "/tdx/certification/v4/tcb",
        "/tdx/certification/v4/qe/identity",
        "/sgx/certification/v4/pckcrl",
        "/IntelSGXRootCA.der",
        "/",
    }


async def test_what_ends_soon_is_asked_for_before_it_ends(rig: Rig) -> None:
    await rig.round(rigs.snp_alone())
    crl = rig.store.get(SNP, "crl", NOW)
    assert crl.life is not None
    assert crl.life.ends is not None
    rig.now = crl.life.ends - DAY / 24
    assert rig.store.get(SNP, "crl", rig.now).state.value == "ends-soon"
    assert rig.store.get(SNP, "crl", rig.now).is_due(rig.now)


async def test_a_pccs_is_asked_in_place_of_intel_and_may_write_hex(rig: Rig) -> None:
    rig.services = rig.services.with_pccs(rig.services.pcs.base)
    done = await rig.round(Wanted(tdx=minted.tdx_subject()))
    assert set(rig.states(done).values()) == {"good"}
    assert "/sgx/certification/v4/rootcacrl" in rig.asked
    assert rig.store.get(TDX, "tdx-root-crl", NOW).content == minted.intel()["tdx-root-crl"]


async def test_of_a_vlek_the_chain_and_the_list_are_fetched_and_the_key_is_brought(
    rig: Rig,
) -> None:
    assert rigs.snp_alone().snp is not None
    loaded = SnpSubject(
        product=Product.GENOA, chip_id=bytes(64), tcb=rigs.snp_alone().snp.tcb, loaded=True
    )
    rig.replies["/vlek/v1/Genoa/cert_chain"] = says(minted.amd_chain())
    rig.replies["/vlek/v1/Genoa/crl"] = says(minted.amd()["crl"])
    rig.store.want(Wanted(snp=loaded))
    done = await rig.round(Wanted(snp=loaded))
    assert rig.asked == ["/vlek/v1/Genoa/cert_chain", "/vlek/v1/Genoa/crl"]
    assert rig.states(done) == {"vlek": "absent", "asvk": "good", "ark": "good", "crl": "good"}
    with pytest.raises(MissingError, match="snp/vlek: not here"):
        carried(rig.store, (SNP,), NOW)
    import_file(rig.store, "vlek", minted.amd()["vcek"], NOW)
    assert [e.kind for e in carried(rig.store, (SNP,), NOW)] == ["vlek", "asvk", "ark", "crl"]


# --- services that misbehave ---------------------------------------------------------------------


async def test_a_service_that_is_asked_too_often_gets_the_wait_that_it_names(rig: Rig) -> None:
    calls = 0

    async def reply(request: web.Request) -> web.StreamResponse:
        nonlocal calls
        calls += 1
        if calls < 3:
            return web.Response(status=429, headers={"Retry-After": "17"})
        return web.Response(body=minted.amd()["crl"])

    rig.replies[CRL] = reply
    done = await rig.round(rigs.snp_alone())
    assert rig.states(done)["crl"] == "good"
    assert [each for each in rig.slept if each > 2.0] == [17.0, 17.0]


async def test_a_wait_may_be_named_as_a_date(rig: Rig) -> None:
    when = email.utils.format_datetime(NOW + dt.timedelta(seconds=40), usegmt=True)
    calls = 0

    async def reply(request: web.Request) -> web.StreamResponse:
        nonlocal calls
        calls += 1
        if calls == 1:
            return web.Response(status=503, headers={"Retry-After": when})
        return web.Response(body=minted.amd()["crl"])

    rig.replies[CRL] = reply
    assert rig.states(await rig.round(rigs.snp_alone()))["crl"] == "good"
    assert 40.0 in rig.slept


async def test_a_wait_beyond_the_limit_ends_the_try_and_is_told(rig: Rig) -> None:
    rig.replies[CRL] = says(b"", 429, Retry_After="86400")
    done = await rig.round(rigs.snp_alone())
    assert "left alone for 86400 s" in rig.problems(done)["crl"]
    assert rig.asked.count(CRL) == 1
    assert max(rig.slept, default=0.0) <= WAIT_SECONDS_MAX


async def test_a_failing_service_is_tried_a_few_times_with_waits_that_double(rig: Rig) -> None:
    rig.replies[CRL] = says(b"oops", 500)
    done = await rig.round(rigs.snp_alone())
    assert rig.asked.count(CRL) == ATTEMPTS_MAX
    waits = [each for each in rig.slept if each in {2.0, 4.0, 8.0, 16.0}]
    assert waits[-4:] == [2.0, 4.0, 8.0, 16.0]
    assert "status 500" in rig.problems(done)["crl"]
    assert rig.states(done)["vcek"] == "good"


async def test_after_a_service_that_does_not_answer_its_other_objects_are_left_in_peace(
    rig: Rig,
) -> None:
    (vcek,) = (
        each
        for each in rig.replies
        if each.startswith("/vcek") and "c" not in each[15:16] and len(each) > 100
    )
    rig.replies[vcek] = says(b"", 503)
    done = await rig.round()
    assert [each for each in rig.asked if "Genoa" in each and vcek not in each] == []
    assert set(rig.problems(done)) == {"vcek", "ask", "ark", "crl"}
    assert all(rig.states(done)[each] == "good" for each in TDX_KINDS)


async def test_nobody_is_asked_faster_than_its_pace(rig: Rig) -> None:
    await rig.round(rigs.snp_alone())
    assert rig.slept == [rig.services.kds.pace_seconds] * 2


@pytest.mark.parametrize(
    ("reply", "word"),
    [
        (rigs.never, "no whole answer"),
        (rigs.half, "no answer"),
        (rigs.endless, "too-large"),
        (says(bytes(300_000)), "too-large"),
        (says(b"", 404), "status 404"),
        (says(b"", 302, Location="/vcek/v1/Genoa/cert_chain"), "status 302"),
        (says(b""), "wrong-content"),
        (says(b"<html>sign in to this network</html>"), "wrong-content"),
        (says(lambda: minted.amd()["vcek"]), "wrong-content"),
        (says(lambda: minted.amd()["crl"][:-1]), "wrong-content"),
        (says(lambda: minted.amd()["crl"] + b"\0"), "wrong-content"),
        (says(lambda: minted.amd()["crl"], Content_Encoding="br"), "compressed"),
    ],
    ids=["slow", "cut", "endless", "huge", "404", "moved", "empty", "html", "vcek", "short", "long",
         "br"],
)  # fmt: skip
async def test_an_answer_that_is_none_is_not_kept_and_told(
    rig: Rig, reply: rigs.Reply, word: str
) -> None:
    rig.replies[CRL] = reply
    rig.request_seconds = 0.3
    done = await rig.round(rigs.snp_alone())
    assert rig.states(done)["crl"] == "absent"
    assert word in rig.problems(done)["crl"]
    assert not (rig.store.folder / SNP / "crl").exists()


async def test_a_trickle_is_ended_by_the_clock_and_not_by_its_size(rig: Rig) -> None:
    async def trickle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            for _ in range(200):
                await response.write(b"\x30")
                await asyncio.sleep(0.05)
        except (ConnectionError, asyncio.CancelledError):
            pass
        return response

    rig.replies[CRL] = trickle
    rig.request_seconds = 0.2
    assert "no whole answer in 0.2 s" in rig.problems(await rig.round(rigs.snp_alone()))["crl"]


@pytest.mark.parametrize(
    ("path", "reply", "name", "word"),
    [
        ("/tdx/certification/v4/tcb", says(minted.tcb_info()), "tdx-tcb-info", "no header"),
        (
            "/tdx/certification/v4/tcb",
            says(
                minted.tcb_info(fmspc="00906ea10000"),
                TCB_Info_Issuer_Chain=minted.as_header(minted.intel_chain(minted.SIGNING)),
            ),
            "tdx-tcb-info",
            "of FMSPC",
        ),
        (
            "/tdx/certification/v4/tcb",
            says(minted.tcb_info(), TCB_Info_Issuer_Chain="%00 no chain"),
            "tdx-tcb-info-chain",
            "wrong-content",
        ),
        (
            f"/v1/rim/{minted.RIM_ID}",
            says(minted.rim_answer(rim_id="NV_GPU_DRIVER_GH100_535.86")),
            f"gpu-rim.{minted.RIM_ID}",
            "the answer is 'NV_GPU_DRIVER_GH100_535.86'",
        ),
        (
            f"/v1/rim/{minted.RIM_ID}",
            says(minted.rim_answer(minted.rim()[:-20])),
            f"gpu-rim.{minted.RIM_ID}",
            "cut off",
        ),
    ],
    ids=["headerless", "other-fmspc", "no-chain", "other-rim", "cut-rim"],
)
async def test_an_answer_to_another_question_is_not_kept(
    rig: Rig, path: str, reply: rigs.Reply, name: str, word: str
) -> None:
    rig.replies[path] = reply
    done = await rig.round()
    assert rig.states(done)[name] == "absent"
    assert word in rig.problems(done)[name]


async def test_the_key_of_another_chip_or_tcb_is_not_kept(rig: Rig) -> None:
    subject = minted.snp_subject()
    other = SnpSubject(product=Product.GENOA, chip_id=bytes(range(64)), tcb=subject.tcb)
    rig.replies[f"/vcek/v1/Genoa/{other.chip_id.hex()}"] = says(lambda: minted.amd()["vcek"])
    assert "of another chip" in rig.problems(await rig.round(Wanted(snp=other)))["vcek"]
    newer = SnpSubject(
        product=Product.GENOA,
        chip_id=subject.chip_id,
        tcb=subject.tcb[:7] + bytes([subject.tcb[7] + 1]),
    )
    assert "of another TCB" in rig.problems(await rig.round(Wanted(snp=newer)))["vcek"]


async def test_an_ocsp_answer_about_another_certificate_or_without_an_end_is_not_kept(
    rig: Rig,
) -> None:
    async def other(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        return web.Response(body=minted.ocsp_answer(body, serial=21))

    async def endless(request: web.Request) -> web.StreamResponse:
        return web.Response(body=minted.ocsp_answer(await request.read(), ends=False))

    wanted = Wanted(gpu=minted.gpu_subject())
    for reply, word in ((other, "of another certificate"), (endless, "does not say when it ends")):
        rig.replies["/"] = reply
        done = await rig.round(wanted)
        said = [v for k, v in rig.problems(done).items() if k.startswith("gpu-ocsp")]
        assert sum(word in each for each in said) >= 2


# --- a cache that is old, broken or offline ------------------------------------------------------


async def test_offline_the_cache_is_carried_until_it_ends_and_then_refused_with_what_to_do(
    rig: Rig,
) -> None:
    rig.store.want(rigs.snp_alone())
    await rig.round(rigs.snp_alone())
    for path in rig.replies:
        rig.replies[path] = says(b"", 503)
    rig.now = NOW + 2 * DAY
    assert rig.states(await rig.round(rigs.snp_alone()))["crl"] == "good"
    assert len(carried(rig.store, (SNP,), rig.now)) == 4
    crl = rig.store.get(SNP, "crl", rig.now)
    assert crl.life is not None
    assert crl.life.ends is not None
    rig.now = crl.life.ends
    await rig.round(rigs.snp_alone())
    with pytest.raises(MissingError) as caught:
        carried(rig.store, (SNP,), rig.now)
    text = caught.value.text
    assert f"snp/crl: ended {rig.now:%Y-%m-%d}" in text
    assert f"not fetched since {NOW + 2 * DAY:%Y-%m-%d}" in text  # when the trouble began
    assert "status 503" in text
    assert "endorsements import" in text


async def test_a_service_that_serves_an_older_list_does_not_replace_a_newer_one(rig: Rig) -> None:
    path, wanted = "/IntelSGXRootCA.der", Wanted(tdx=minted.tdx_subject())
    await rig.round(wanted)
    rig.now = NOW + DAY
    rig.replies[path] = says(minted.revocation_list(minted.ROOT, NOW - 5 * DAY))
    done = await rig.round(wanted)
    assert "stale-answer" in rig.problems(done)["tdx-root-crl"]
    assert rig.store.get(TDX, "tdx-root-crl", rig.now).content == minted.intel()["tdx-root-crl"]
    rig.replies[path] = says(newer := minted.revocation_list(minted.ROOT, NOW + DAY / 2))
    done = await rig.round(wanted)
    assert "tdx-root-crl" not in rig.problems(done)
    assert rig.store.get(TDX, "tdx-root-crl", rig.now).content == newer


@pytest.mark.parametrize("begins", [NOW - 60 * DAY, NOW + 5 * DAY], ids=["ended", "not-begun"])
async def test_what_has_ended_or_not_begun_is_not_kept(rig: Rig, begins: dt.datetime) -> None:
    rig.replies["/IntelSGXRootCA.der"] = says(minted.revocation_list(minted.ROOT, begins))
    done = await rig.round()
    assert rig.states(done)["tdx-root-crl"] == "absent"
    assert "stale-answer" in rig.problems(done)["tdx-root-crl"]


async def test_a_file_that_a_disk_damaged_is_not_carried_and_fetched_again(rig: Rig) -> None:
    rig.store.want(rigs.snp_alone())
    await rig.round(rigs.snp_alone())
    path = rig.store.folder / SNP / "ask"
    path.write_bytes(minted.amd()["ark"])  # a certificate, and not this one
    with pytest.raises(MissingError, match="snp/ask: damaged"):
        carried(rig.store, (SNP,), NOW)
    assert set(rig.states(await rig.round(rigs.snp_alone())).values()) == {"good"}
    assert path.read_bytes() == minted.amd()["ask"]


async def test_notes_that_are_lost_or_junk_cost_a_fetch_and_nothing_else(rig: Rig) -> None:
    await rig.round(rigs.snp_alone())
    for junk in (b"", b"[]", b'{"crl": 5}', b"{" * 5000):
        (rig.store.folder / SNP / NOTES_FILE).write_bytes(junk)
        assert len(carried(rig.store, (SNP,), NOW)) == 4
        assert set(rig.states(await rig.round(rigs.snp_alone())).values()) == {"good"}


async def test_what_is_no_longer_wanted_goes(rig: Rig) -> None:
    await rig.round()
    assert any(each.startswith("gpu-rim") for each in rig.store.names(GPU))
    newer = minted.GpuSubject(rims=("NV_GPU_DRIVER_GH100_580.1",), chains=())
    rig.replies["/v1/rim/NV_GPU_DRIVER_GH100_580.1"] = says(
        minted.rim_answer(rim_id="NV_GPU_DRIVER_GH100_580.1")
    )
    await rig.round(Wanted(gpu=newer))
    names = rig.store.names(GPU)
    assert [each for each in names if each.startswith("gpu-rim")] == [
        "gpu-rim.NV_GPU_DRIVER_GH100_580.1"
    ]
    assert len([each for each in names if each.startswith("gpu-ocsp")]) == 1


async def test_an_import_is_looked_at_as_a_fetch_is(rig: Rig) -> None:
    for name, content, word in (
        ("crl", b"junk", "wrong-content"),
        ("tdx-root-crl", minted.revocation_list(minted.ROOT, NOW - 60 * DAY), "stale-answer"),
        ("../crl", minted.amd()["crl"], "unknown-kind"),
        ("crl.more", minted.amd()["crl"], "unknown-kind"),
        ("shadow", b"root", "unknown-kind"),
    ):
        with pytest.raises(EndorsementError, match=word):
            import_file(rig.store, name, content, NOW)
    assert not list(rig.store.folder.glob("**/*crl*"))
    import_file(rig.store, "crl", minted.amd()["crl"], NOW)
    assert rig.store.get(SNP, "crl", NOW).source == "import"
