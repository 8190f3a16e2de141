"""What vendors really signed, served as their services do, arrives byte for byte."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from provider_agent.endorsements.errors import EndorsementError
from provider_agent.endorsements.rounds import carried
from provider_agent.endorsements.shapes import SNP, TDX, lifetime, pem_chain, rim_certificates
from provider_agent.endorsements.subjects import GpuSubject, Wanted, snp_subject, tdx_subject
from tests.provider_agent.endorsements import minted
from tests.provider_agent.endorsements.rig import Rig, says
from trust.verifier.endorsements import parse_snp_endorsements
from trust.verifier.roots import VENDOR_ROOTS

SHARED = Path(__file__).parents[4] / "shared" / "vectors"

pytestmark = [
    pytest.mark.vectors,
    pytest.mark.skipif(not SHARED.exists(), reason="../shared/vectors is absent"),
]


def vector(name: str) -> dict[str, bytes]:
    for entry in json.loads((SHARED / "index.json").read_text()):
        if entry["name"] == name:
            return {
                file: (SHARED / each["path"]).read_bytes() for file, each in entry["files"].items()
            }
    raise AssertionError(name)


def the(day: str) -> dt.datetime:
    return dt.datetime.fromisoformat(day).replace(tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("name", "crl", "now", "path"),
    [
        ("genoa_v3_veraison", "amd_crl_genoa", "2025-05-20", "?blSPL="),
        ("milan_v3_azure", "amd_crl_milan", "2025-11-20", "?blSPL="),
    ],
)
async def test_amds_own_certificates_arrive_for_the_chip_of_a_report(
    rig: Rig, name: str, crl: str, now: str, path: str
) -> None:
    files, rig.now = vector(name), the(now)
    subject = snp_subject(files["report"])
    base = f"/vcek/v1/{subject.product.value}"
    rig.replies[f"{base}/{subject.chip_id.hex()}"] = says(files["ek_cert"])
    rig.replies[f"{base}/cert_chain"] = says(files["chain"])
    rig.replies[f"{base}/crl"] = says(vector(crl)["crl"])
    rig.store.want(Wanted(snp=subject))
    done = await rig.round(Wanted(snp=subject))
    assert rig.problems(done) == {}
    assert path in rig.asked[0]
    found = [(each.kind, each.content) for each in carried(rig.store, (SNP,), rig.now)]
    assert dict(found)["vcek"] == files["ek_cert"]
    roots = {
        each if isinstance(each, bytes) else each.fingerprint for each in VENDOR_ROOTS.values()
    }
    assert parse_snp_endorsements(found).root.fingerprint in roots


async def test_a_turins_key_arrives_and_its_missing_list_is_what_is_refused(rig: Rig) -> None:
    files, rig.now = vector("turin_v5"), the("2026-06-01")
    subject = snp_subject(files["report"])
    rig.replies[f"/vcek/v1/Turin/{subject.chip_id[:8].hex()}"] = says(files["ek_cert"])
    rig.replies["/vcek/v1/Turin/cert_chain"] = says(files["chain"])
    done = await rig.round(Wanted(snp=subject))
    assert rig.states(done) == {"vcek": "good", "ask": "good", "ark": "good", "crl": "absent"}


@pytest.mark.parametrize(
    "name", ["tdx15_v5_uptodate", "tdx_v4_phala_uptodate", "tdx_v4_gcp_uptodate"]
)
async def test_intels_own_collateral_arrives_for_the_platform_of_a_quote(
    rig: Rig, name: str
) -> None:
    files = vector(name)
    collateral: dict[str, Any] = json.loads(files["collateral"])
    rig.now = time_of(collateral)
    subject = tdx_subject(files["quote"])
    tcb_info, identity = (
        (
            f'{{"{member}":{collateral[field]},"signature":"{collateral[field + "_signature"]}"}}'
        ).encode()
        for member, field in (("tcbInfo", "tcb_info"), ("enclaveIdentity", "qe_identity"))
    )
    chains = {
        "TCB_Info_Issuer_Chain": collateral["tcb_info_issuer_chain"],
        "SGX_Enclave_Identity_Issuer_Chain": collateral["qe_identity_issuer_chain"],
        "SGX_PCK_CRL_Issuer_Chain": collateral["pck_crl_issuer_chain"],
    }
    headers = {each: minted.as_header(chain.encode()) for each, chain in chains.items()}
    pck_list, root_list = (bytes.fromhex(collateral[n]) for n in ("pck_crl", "root_ca_crl"))
    rig.replies["/tdx/certification/v4/tcb"] = says(tcb_info, **headers)
    rig.replies["/tdx/certification/v4/qe/identity"] = says(identity, **headers)
    rig.replies["/sgx/certification/v4/pckcrl"] = says(pck_list, **headers)
    rig.replies["/IntelSGXRootCA.der"] = says(root_list)
    rig.store.want(Wanted(tdx=subject))
    done = await rig.round(Wanted(tdx=subject))
    assert rig.problems(done) == {}
    found = {each.kind: each.content for each in carried(rig.store, (TDX,), rig.now)}
    assert found["tdx-tcb-info"] == tcb_info
    assert found["tdx-root-crl"] == root_list
    chain = pem_chain(found["tdx-pck-crl-chain"])
    assert chain == pem_chain(collateral["pck_crl_issuer_chain"].encode())
    (authority,) = chain[0].subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    assert subject.authority in str(authority.value).lower()


def time_of(collateral: dict[str, Any]) -> dt.datetime:
    """A moment at which all of it holds: an hour after the last of it was issued."""
    begins = [
        dt.datetime.fromisoformat(json.loads(collateral[each])["issueDate"])
        for each in ("tcb_info", "qe_identity")
    ]
    lists = (
        x509.load_der_x509_crl(bytes.fromhex(collateral[e])) for e in ("pck_crl", "root_ca_crl")
    )
    return max(*begins, *(each.last_update_utc for each in lists)) + dt.timedelta(hours=1)


async def test_nvidias_own_rim_arrives_and_each_of_its_certificates_is_asked_about(
    rig: Rig,
) -> None:
    content = vector("rim_driver_gh100_550_144_03")["rim"]
    chain = vector("h100_driver550_nvtrust")["cert_chain"]
    rig.now = the("2025-12-30")
    rig.replies["/"] = says(b"", 400)
    rig.replies[f"/v1/rim/{minted.RIM_ID}"] = says(minted.rim_answer(content))
    subject = GpuSubject(rims=(minted.RIM_ID,), chains=(chain,))
    done = await rig.round(Wanted(gpu=subject))
    states = rig.states(done)
    assert states.pop(f"gpu-rim.{minted.RIM_ID}") == "good"
    below_roots = len(pem_chain(chain)) - 1 + len(rim_certificates(content)) - 1
    assert len(states) == below_roots
    assert rig.asked.count("/") == below_roots
    assert set(states.values()) == {"absent"}  # there is no public OCSP response


async def test_a_rim_whose_signers_certificate_has_ended_is_not_kept(rig: Rig) -> None:
    rig.now = the("2026-11-24")
    answer = minted.rim_answer(vector("h100_driver545_full_rim_match")["rim_driver"])
    rig.replies[f"/v1/rim/{minted.RIM_ID}"] = says(answer)
    done = await rig.round(Wanted(gpu=GpuSubject(rims=(minted.RIM_ID,), chains=())))
    assert "it ended 2025-06-26" in rig.problems(done)[f"gpu-rim.{minted.RIM_ID}"]


def test_no_vector_of_one_kind_is_taken_for_another() -> None:
    genoa, tdx = vector("genoa_v5"), json.loads(vector("tdx15_v5_uptodate")["collateral"])
    contents = {
        "vcek": genoa["ek_cert"],
        "crl": vector("amd_crl_genoa")["crl"],
        "tdx-root-crl": bytes.fromhex(tdx["root_ca_crl"]),
        "tdx-pck-crl-chain": tdx["pck_crl_issuer_chain"].encode(),
        "gpu-rim": vector("rim_driver_gh100_550_144_03")["rim"],
    }
    for kind in contents:
        for other, content in contents.items():
            if kind == other or {kind, other} == {"crl", "tdx-root-crl"}:  # lists, both
                lifetime(kind, content)
                continue
            with pytest.raises(EndorsementError, match="wrong-content"):
                lifetime(kind, content)
