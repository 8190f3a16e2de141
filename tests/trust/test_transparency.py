"""Logs, notes and proofs: as the specifications say, and as an independent reader reads them.

Vectors: the eight leaves and roots are those of Certificate Transparency's own tests (Apache-2.0);
the signed note is the example of C2SP signed-note (CC BY 4.0); the Go note is golang.org/x/mod's
(BSD-3-Clause). `proofbundle` (MIT) is another author's implementation of the same specifications.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.image_log import Tree
from trust.errors import BlindhostError, EncodingError, SignatureError, SizeLimitError
from trust.merkle import MerkleError, leaf_hash, root_hash, verify_consistency, verify_inclusion
from trust.transparency import (
    COSIGNATURE,
    ED25519,
    NOTE_BYTES_MAX,
    Checkpoint,
    Note,
    NoteKey,
    NoteSigner,
    TlogProof,
    _verify,
    cosigned_message,
    parse_checkpoint,
    parse_note,
    parse_tlog_proof,
    verify_checkpoint,
    verify_cosignatures,
)

CT_LEAVES = [
    bytes.fromhex(each)
    for each in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
C2SP_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
C2SP_NOTE = (
    "This is an example message.\n\n"
    "— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYj"
    "OBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqf"
    "qdngotpRZb6KE6RyyBwJnAM=\n"
)
LOG = NoteSigner("log.example/images", ED25519, bytes([1]) * 32)
WITNESS = NoteSigner("w1.example", COSIGNATURE, bytes([2]) * 32)
OTHER = NoteSigner("w2.example", COSIGNATURE, bytes([3]) * 32)
LEAVES = [leaf_hash(bytes([n])) for n in range(40)]
TREE = Tree(LEAVES)


def checkpoint(size: int = 7) -> Checkpoint:
    return Checkpoint(origin=LOG.key.name, size=size, root=TREE.root(size))


def note(size: int = 7, *times: int) -> Note:
    made = checkpoint(size)
    lines = [LOG.sign(made), *(WITNESS.cosign(made, at) for at in times)]
    return Note(text=made.text, signatures=tuple(lines))


# --- trees ---------------------------------------------------------------------------------------


def test_roots_are_those_of_certificate_transparency() -> None:
    hashes = [leaf_hash(each) for each in CT_LEAVES]
    assert [root_hash(hashes[: n + 1]).hex() for n in range(8)] == CT_ROOTS
    assert root_hash(()) == hashlib.sha256(b"").digest()


def test_inclusion_and_consistency_paths_are_those_of_the_rfc() -> None:
    """RFC 6962 §2.1.3: the example of seven leaves."""
    tree = Tree(LEAVES[:7])
    a, b, c, d, e, f, j = LEAVES[:7]
    g, h, i = Tree([a, b]).root(2), Tree([c, d]).root(2), Tree([e, f]).root(2)
    k, l2 = Tree(LEAVES[:4]).root(4), Tree([e, f, j]).root(3)
    assert tree.inclusion(0, 7) == (b, h, l2)
    assert tree.inclusion(3, 7) == (c, g, l2)
    assert tree.inclusion(4, 7) == (f, j, k)
    assert tree.inclusion(6, 7) == (i, k)
    assert tree.consistency(3, 7) == (c, d, g, l2)
    assert tree.consistency(4, 7) == (l2,)
    assert tree.consistency(6, 7) == (i, j, k)


def test_every_entry_of_every_size_is_proven_and_no_other_entry_is() -> None:
    for size in range(1, 20):
        root = TREE.root(size)
        for index in range(size):
            path = TREE.inclusion(index, size)
            verify_inclusion(LEAVES[index], index, size, path, root)
            for other in {(index + 1) % size, index ^ 1} - {index}:
                with pytest.raises(MerkleError):
                    verify_inclusion(LEAVES[other], index, size, path, root)
                with pytest.raises(MerkleError):
                    verify_inclusion(LEAVES[index], other, size, path, root)


def test_every_size_grows_from_every_smaller_one_and_from_no_other_tree() -> None:
    forked = Tree([leaf_hash(b"forked"), *LEAVES[1:]])
    for size in range(1, 20):
        for old in range(1, size):
            path = TREE.consistency(old, size)
            verify_consistency(old, TREE.root(old), size, TREE.root(size), path)
            with pytest.raises(MerkleError):
                verify_consistency(old, forked.root(old), size, TREE.root(size), path)
            with pytest.raises(MerkleError):
                verify_consistency(old, TREE.root(old), size, forked.root(size), path)
            forged = forked.consistency(old, size)
            with pytest.raises(MerkleError):
                verify_consistency(old, TREE.root(old), size, forked.root(size), forged)


def test_a_proof_that_is_too_long_or_too_short_is_refused() -> None:
    path = TREE.inclusion(3, 7)
    for bad in (path[:-1], path[1:], (*path, LEAVES[0]), (LEAVES[0], *path)):
        with pytest.raises(MerkleError):
            verify_inclusion(LEAVES[3], 3, 7, bad, TREE.root(7))
    path = TREE.consistency(3, 7)
    for bad in (path[:-1], path[1:], (*path, LEAVES[0]), (LEAVES[0], *path), ()):
        with pytest.raises(MerkleError):
            verify_consistency(3, TREE.root(3), 7, TREE.root(7), bad)


def test_a_root_of_another_size_is_refused_though_the_path_leads_to_it() -> None:
    one, two = LEAVES[:2]
    with pytest.raises(MerkleError):
        verify_inclusion(one, 0, 2, (), one)  # the root of size 1
    with pytest.raises(MerkleError):
        verify_inclusion(one, 0, 1, (two,), root_hash([two, one]))  # a root of size 2


def test_sizes_that_have_no_sense_are_refused() -> None:
    root = TREE.root(7)
    for index, size in ((7, 7), (-1, 7), (0, 0), (0, 1 << 53)):
        with pytest.raises(MerkleError):
            verify_inclusion(LEAVES[0], index, size, (), root)
    for old, size in ((8, 7), (-1, 7)):
        with pytest.raises(MerkleError):
            verify_consistency(old, root, size, root, ())
    with pytest.raises(MerkleError):
        verify_consistency(7, root, 7, TREE.root(6), ())
    with pytest.raises(MerkleError):
        verify_consistency(0, root, 7, root, ())
    verify_consistency(0, root_hash(()), 7, root, ())
    verify_consistency(7, root, 7, root, ())


def test_hashes_of_another_length_and_endless_proofs_are_refused() -> None:
    with pytest.raises(MerkleError):
        verify_inclusion(b"short", 0, 1, (), b"short")
    with pytest.raises(SizeLimitError):
        verify_inclusion(LEAVES[0], 0, 1 << 52, [LEAVES[0]] * 64, LEAVES[0])


# --- notes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "text"), [(C2SP_KEY, C2SP_NOTE), (GO_KEY, GO_NOTE)])
def test_published_examples_of_signed_notes_verify(key: str, text: str) -> None:
    parsed, known = parse_note(text.encode()), NoteKey.parse(key)
    assert parsed.encode() == text.encode()
    assert str(known) == key
    (line,) = parsed.signatures
    assert line.is_of(known)
    _verify(known, line.value, parsed.text.encode())
    with pytest.raises(SignatureError):
        _verify(known, line.value, parsed.text.encode() + b" ")


@pytest.mark.parametrize(
    "text",
    [
        "name",
        "name+00000000+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        C2SP_KEY.replace("foo", "bar"),
        C2SP_KEY.replace("+530d903a", "+530D903A"),
        C2SP_KEY + "=",
        C2SP_KEY[:-4],
        "a b" + C2SP_KEY,
        "\u2003" + C2SP_KEY,
        "x+00000000+",
        "n" * 400,
    ],
)
def test_a_verifier_key_that_is_not_its_own_is_refused(text: str) -> None:
    with pytest.raises(EncodingError):
        NoteKey.parse(text)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text\n",
        b"text\n\n",
        "text\n\n— n AAAAAAA=".encode(),  # no newline at the end
        b"text\n\n- n AAAAAAAA\n",  # a hyphen
        "text\n\n— n AAAAAA==\n".encode(),  # an id, and no signature
        "text\n\n— n AAAAAAA\n".encode(),
        "text\n\n—  AAAAAAAA\n".encode(),
        "text\n\n— n+n AAAAAAAA\n".encode(),
        "te\rxt\n\n— n AAAAAAAA\n".encode(),
        "te\x00xt\n\n— n AAAAAAAA\n".encode(),
        b"\xff\n\n" + "— n AAAAAAAA\n".encode(),
        b"text\n\n" + "— n AAAAAAAA\n".encode() * 65,
        b"x" * (NOTE_BYTES_MAX + 1),
    ],
)
def test_a_note_of_another_form_is_refused(data: bytes) -> None:
    with pytest.raises(EncodingError):
        parse_note(data)


def test_a_note_is_measured_before_it_is_read() -> None:
    fits = ("x" * (NOTE_BYTES_MAX - 17) + "\n\n— n AAAAAAAA\n").encode()
    assert len(fits) == NOTE_BYTES_MAX
    assert parse_note(fits).encode() == fits
    with pytest.raises(SizeLimitError):
        parse_note(b"x" + fits)


def test_the_last_empty_line_parts_text_from_signatures() -> None:
    parsed = parse_note("a\n\nb\n\n— n AAAAAAAA\n".encode())
    assert parsed.text == "a\n\nb\n"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_give_our_own_errors_alone(data: bytes) -> None:
    for parse in (parse_note, parse_tlog_proof):
        try:
            parse(data)
        except BlindhostError:
            continue


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=100))
def test_any_text_gives_our_own_errors_alone(text: str) -> None:
    for parse in (parse_checkpoint, NoteKey.parse):
        try:
            parse(text)
        except BlindhostError:
            continue


# --- checkpoints ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        ("log", "1"),
        ("log", "01", "A" * 43 + "="),
        ("log", "-1", "A" * 43 + "="),
        ("log", "١", "A" * 43 + "="),
        ("log", "1 ", "A" * 43 + "="),
        ("log", str(1 << 53), "A" * 43 + "="),
        ("log", "1", "AAAA"),
        ("", "1", "A" * 43 + "="),
        ("log", "1", "A" * 43 + "=", ""),
    ],
)
def test_a_checkpoint_of_another_form_is_refused(lines: tuple[str, ...]) -> None:
    with pytest.raises(EncodingError):
        parse_checkpoint("".join(f"{each}\n" for each in lines))


def test_extension_lines_are_kept_and_signed() -> None:
    made = dataclasses.replace(checkpoint(), extensions=("more",))
    signed = Note(text=made.text, signatures=(LOG.sign(made),))
    assert verify_checkpoint(signed, LOG.key).extensions == ("more",)
    without = Note(text=checkpoint().text, signatures=signed.signatures)
    with pytest.raises(SignatureError):
        verify_checkpoint(without, LOG.key)


def test_a_checkpoint_without_its_logs_signature_is_refused() -> None:
    assert verify_checkpoint(note(), LOG.key) == checkpoint()
    thief = NoteSigner(LOG.key.name, ED25519, bytes([4]) * 32)
    with pytest.raises(SignatureError, match="no signature of the log"):
        verify_checkpoint(note(), thief.key)
    only_witness = Note(text=note().text, signatures=(WITNESS.cosign(checkpoint(), 1),))
    with pytest.raises(SignatureError):
        verify_checkpoint(only_witness, LOG.key)


def test_one_bad_line_of_a_known_key_refuses_the_note() -> None:
    good = note()
    bad = dataclasses.replace(good.signatures[0], value=bytes(64))
    for lines in ((good.signatures[0], bad), (bad, good.signatures[0])):
        with pytest.raises(SignatureError):
            verify_checkpoint(Note(text=good.text, signatures=lines), LOG.key)


def test_a_line_of_an_unknown_key_is_passed_over() -> None:
    strange = dataclasses.replace(note().signatures[0], key_id=b"\x00" * 4)
    lines = (strange, *note().signatures)
    assert verify_checkpoint(Note(text=note().text, signatures=lines), LOG.key) == checkpoint()


def test_a_logs_signature_is_no_cosignature_and_the_other_way_round() -> None:
    secret = bytes([5]) * 32
    log, witness = (NoteSigner("one", kind, secret) for kind in (ED25519, COSIGNATURE))
    made = dataclasses.replace(checkpoint(), origin="one")
    line = log.sign(made)
    forged = dataclasses.replace(line, key_id=witness.key.id, value=bytes(8) + line.value)
    with pytest.raises(SignatureError):
        verify_cosignatures(Note(text=made.text, signatures=(forged,)), [witness.key])
    with pytest.raises(SignatureError):
        verify_cosignatures(Note(text=made.text, signatures=(line,)), [log.key])
    with pytest.raises(SignatureError):
        verify_checkpoint(Note(text=made.text, signatures=(line,)), witness.key)
    with pytest.raises(SignatureError):
        log.cosign(made, 1)
    with pytest.raises(SignatureError):
        witness.sign(made)


def test_a_key_of_one_type_never_verifies_as_the_other() -> None:
    """Lines that would verify, if only the types were not looked at."""
    made = dataclasses.replace(checkpoint(), origin=WITNESS.key.name)
    raw = WITNESS._line(WITNESS._private.sign(made.text.encode()))
    with pytest.raises(SignatureError, match="no log's key"):
        verify_checkpoint(Note(text=made.text, signatures=(raw,)), WITNESS.key)
    timed = (9).to_bytes(8, "big") + LOG._private.sign(cosigned_message(checkpoint().text, 9))
    line = Note(text=checkpoint().text, signatures=(LOG._line(timed),))
    with pytest.raises(SignatureError, match="no witness's key"):
        verify_cosignatures(line, [LOG.key])


def test_a_checkpoint_of_another_origin_is_refused_though_the_log_signed_it() -> None:
    other = dataclasses.replace(checkpoint(), origin="other.example")
    line = LOG._line(LOG._private.sign(other.text.encode()))
    with pytest.raises(SignatureError, match=r"other\.example"):
        verify_checkpoint(Note(text=other.text, signatures=(line,)), LOG.key)
    with pytest.raises(SignatureError, match="its own log alone"):
        LOG.sign(other)


def test_a_cosignature_says_when_and_the_earlier_of_two_counts() -> None:
    (found,) = verify_cosignatures(note(7, 2000, 1000), [WITNESS.key, OTHER.key])
    assert (found.witness, found.at) == (WITNESS.key, 1000)
    assert verify_cosignatures(note(), [WITNESS.key]) == ()


def test_a_cosignature_with_another_time_does_not_verify() -> None:
    good = note(7, 1000)
    line = good.signatures[1]
    for value in ((999).to_bytes(8, "big") + line.value[8:], line.value[:-1], line.value + b"x"):
        changed = dataclasses.replace(line, value=value)
        with pytest.raises(SignatureError):
            verify_cosignatures(
                dataclasses.replace(good, signatures=(good.signatures[0], changed)), [WITNESS.key]
            )


def test_no_mutation_of_a_signed_byte_verifies() -> None:
    good = note(7, 1000).encode()
    for at in range(len(good)):
        for bit in (0, 5):
            changed = bytearray(good)
            changed[at] ^= 1 << bit
            try:
                parsed = parse_note(bytes(changed))
                found = verify_checkpoint(parsed, LOG.key)
                times = [each.at for each in verify_cosignatures(parsed, [WITNESS.key])]
            except BlindhostError:
                continue
            assert found == checkpoint()
            assert times in ([1000], [])  # its name or id was changed: no line of a known witness


# --- proofs that travel --------------------------------------------------------------------------


def test_a_tlog_proof_survives_its_encoding() -> None:
    made = TlogProof(index=3, path=TREE.inclusion(3, 7), checkpoint=note(7, 1000))
    assert parse_tlog_proof(made.encode()) == made
    alone = TlogProof(index=0, path=(), checkpoint=note(1))
    assert parse_tlog_proof(alone.encode()) == alone


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"@v1", b"@v2"),
        (b"index 3", b"index 03"),
        (b"index 3", b"index -3"),
        (b"index 3", b"indes 3"),
        (b"index 3", b"extra AAAA\nindex 3"),
        (b"\n\nlog", b"\nlog"),
        (b"\n\nlog", b"\nAAAA\n\nlog"),
        (b"\n\nlog", b"\n" + b"A" * 43 + b"=" + b"\n\nlog" * 0),
        (b"\n\nlog", (b"\n" + b"A" * 43 + b"=") * 64 + b"\n\nlog"),
    ],
)
def test_a_tlog_proof_of_another_form_is_refused(old: bytes, new: bytes) -> None:
    made = TlogProof(index=3, path=TREE.inclusion(3, 7), checkpoint=note(7)).encode()
    assert old in made
    with pytest.raises(EncodingError):
        parse_tlog_proof(made.replace(old, new, 1))


# --- another implementation ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def theirs() -> ModuleType:
    """Another author's code: only what it reads and writes is compared."""
    pytest.importorskip("proofbundle", reason="pip install proofbundle: an independent tlog reader")
    import proofbundle.checkpoint
    import proofbundle.merkle
    import proofbundle.tlogproof

    return proofbundle


def test_others_read_our_trees_and_we_read_theirs(theirs: ModuleType) -> None:
    entries = [bytes([n]) * n for n in range(24)]
    tree = Tree([leaf_hash(each) for each in entries])
    for size in range(1, 25):
        some = entries[:size]
        assert theirs.merkle.merkle_tree_hash(some) == tree.root(size)
        for index in range(0, size, 3):
            path = theirs.merkle.inclusion_proof(some, index)
            assert tuple(path) == tree.inclusion(index, size)
            verify_inclusion(leaf_hash(entries[index]), index, size, path, tree.root(size))
        for old in range(1, size, 4):
            path = theirs.merkle.consistency_proof(some, old)
            assert tuple(path) == tree.consistency(old, size)
            verify_consistency(old, tree.root(old), size, tree.root(size), path)


def test_others_accept_our_proofs_with_our_keys(theirs: ModuleType) -> None:
    made = TlogProof(index=3, path=TREE.inclusion(3, 7), checkpoint=note(7, 1000))
    keys = [str(WITNESS.key), str(OTHER.key)]
    verdict = theirs.tlogproof.verify_tlog_proof(
        made.encode().decode(), bytes([3]), str(LOG.key), keys, threshold=1
    )
    assert verdict["ok"], verdict
    assert verdict["root"] == TREE.root(7)
    refused = theirs.tlogproof.verify_tlog_proof(
        made.encode().decode(), bytes([3]), str(LOG.key), keys, threshold=2
    )
    assert not refused["ok"]
    seen = theirs.checkpoint.verify_cosignature(made.checkpoint.encode().decode(), keys[0])
    assert (seen["ok"], seen["timestamp"]) == (True, 1000)


def test_we_accept_others_checkpoints_cosignatures_and_proofs(theirs: ModuleType) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    log, witness = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (7, 8))
    signed = theirs.checkpoint.sign_checkpoint(
        "their.example/log", 7, TREE.root(7), log, "their.example/log"
    )
    both = theirs.checkpoint.cosign_checkpoint(signed, witness, "their.witness", 1234)
    whole = both if both.startswith(signed) else signed + both
    text = theirs.tlogproof.format_tlog_proof(3, list(TREE.inclusion(3, 7)), whole)
    log_key = NoteKey.parse(
        theirs.checkpoint.vkey("their.example/log", log.public_key().public_bytes_raw())
    )
    witness_key = NoteKey.parse(
        theirs.checkpoint.cosign_vkey("their.witness", witness.public_key().public_bytes_raw())
    )
    parsed = parse_tlog_proof(text.encode())
    found = verify_checkpoint(parsed.checkpoint, log_key)
    verify_inclusion(LEAVES[3], parsed.index, found.size, parsed.path, found.root)
    assert [each.at for each in verify_cosignatures(parsed.checkpoint, [witness_key])] == [1234]


def test_the_example_of_tlog_checkpoint_has_the_form_that_we_parse() -> None:
    example = (
        "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    )
    found = parse_checkpoint(example)
    assert (found.size, found.text) == (20852163, example)
    assert base64.b64encode(found.root) == b"CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="
