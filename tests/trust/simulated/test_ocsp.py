"""OCSP responses: by a responder of the issuer's own, about one certificate, for a time."""

from __future__ import annotations

import datetime as dt

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.trust.simulated.makers import NOW, certificates, gpu, nvidia
from trust.simulated.ocsp import Status, good, issue_responder, refuse, respond
from trust.verifier.ocsp import parse_ocsp, standing_of
from trust.verifier.rims import parse_rim
from trust.verifier.x509_ec import parse_pem_chain


def test_a_gpu_carries_a_response_on_each_certificate_but_its_own_and_the_roots() -> None:
    responses = [parse_ocsp(each) for each in gpu().ocsp]
    device = parse_pem_chain(gpu().chain_pem())
    manifest = parse_rim(gpu().rims[0]).chain
    for chain, asked in ((device, (1, 2, 3)), (manifest, (0, 1, 2))):
        standing = standing_of(chain, asked, responses, NOW)
        assert standing.fault is None
        assert len(standing.used) == 3
    assert standing_of(device, (0,), responses, NOW).fault is not None
    assert len(responses) == 6


def test_a_responder_is_certified_by_that_issuer_and_for_ocsp_alone() -> None:
    response = ocsp.load_der_ocsp_response(gpu().ocsp[0])
    (responder,) = response.certificates
    responder.verify_directly_issued_by(certificates(gpu())[2])
    usage = responder.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.OCSP_SIGNING]
    assert not responder.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    key, algorithm = responder.public_key(), response.signature_hash_algorithm
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert algorithm is not None
    key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(algorithm))
    assert response.serial_number == certificates(gpu())[1].serial_number


def test_stapling_again_makes_the_responses_fresh_and_changes_nothing_else() -> None:
    later = NOW + dt.timedelta(days=400)
    again = nvidia().staple(gpu(), later)
    chain = parse_pem_chain(gpu().chain_pem())

    def fault(value: tuple[bytes, ...]) -> str | None:
        return standing_of(chain, (1, 2, 3), [parse_ocsp(each) for each in value], later).fault

    assert fault(gpu().ocsp) is not None
    assert fault(again.ocsp) is None
    assert (again.chain, again.key, again.rims) == (gpu().chain, gpu().key, gpu().rims)


def test_all_lines_and_the_gpus_named_are_answered_for() -> None:
    kinds = [kind for kind, _ in nvidia().ocsp(NOW)]
    assert kinds == ["gpu-ocsp"] * 10
    serials = {ocsp.load_der_ocsp_response(d).serial_number for _, d in nvidia().ocsp(NOW, gpu())}
    assert certificates(gpu())[1].serial_number in serials


def test_a_lie_is_signed_as_it_is_told() -> None:
    line = nvidia().line("hopper")
    hold = Status(
        this_update=NOW,
        next_update=None,
        certificate_status=ocsp.OCSPCertStatus.REVOKED,
        revoked_at=NOW,
        reason=x509.ReasonFlags.certificate_hold,
    )
    plain = issue_responder(line.model, NOW, extensions=())
    data = respond(line.provisioner.certificate, line.model.certificate, hold, responder=plain)
    response = ocsp.load_der_ocsp_response(data)
    assert response.certificate_status is ocsp.OCSPCertStatus.REVOKED
    assert response.revocation_reason is x509.ReasonFlags.certificate_hold
    assert response.next_update_utc is None
    refused = ocsp.load_der_ocsp_response(refuse(ocsp.OCSPResponseStatus.TRY_LATER))
    assert refused.response_status is ocsp.OCSPResponseStatus.TRY_LATER
    assert good(NOW).next_update is not None
