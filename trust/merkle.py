"""Merkle trees of logs, and proofs about them (RFC 6962 §2.1, RFC 9162 §2.1).

Rules (docs/spec/image-releases.md §2):
- A proof is exactly as long as its sizes say: nothing is left over.
- Leaf and node hashes are parted by their first byte, so that no node passes for an entry.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from trust.errors import BlindhostError, SizeLimitError

HASH_BYTES: Final = 32
LOG_SIZE_MAX: Final = (1 << 53) - 1  # what every JSON reader keeps exactly
PROOF_HASHES_MAX: Final = 63  # tlog-witness: no proof of a tree of 2⁶³ leaves is longer


class MerkleError(BlindhostError):
    """A Merkle proof that does not lead to the root, or has no sense for its sizes."""


def leaf_hash(entry: bytes) -> bytes:
    """``SHA-256(0x00 ‖ entry)``: 32 bytes."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """``SHA-256(0x01 ‖ left ‖ right)``: 32 bytes."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_hash(leaves: Sequence[bytes]) -> bytes:
    """The root over leaf hashes, of 32 bytes each; over none it is SHA-256 of nothing."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    complete: list[tuple[int, bytes]] = []  # (height, root), heights fall: at most 53 at a time
    for leaf in leaves:
        height, root = 0, leaf
        while complete and complete[-1][0] == height:
            root = node_hash(complete.pop()[1], root)
            height += 1
        complete.append((height, root))
    root = complete.pop()[1]
    while complete:
        root = node_hash(complete.pop()[1], root)
    return root


def verify_inclusion(
    leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes
) -> None:
    """Verify that the leaf hash stands at `index` of the tree of `size` leaves with `root`.

    RFC 9162 §2.1.3.2. (1) The index lies in the tree, and every hash has 32 bytes. (2) Climb: a
    node that is a right child, or the last of its level, has its sibling on the left. (3) The path
    ends at the root's height, and its value is the root.

    Raises MerkleError.
    """
    _check_hashes((leaf, root, *path))  # (1)
    if not 0 <= index < size <= LOG_SIZE_MAX:
        raise MerkleError(f"index {index} is not in a log of {size} entries")
    node, last, value = index, size - 1, leaf
    for sibling in path:  # (2)
        if last == 0:
            raise MerkleError(f"an inclusion proof of {len(path)} hashes is too long for {size}")
        if node & 1 or node == last:
            value = node_hash(sibling, value)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            value = node_hash(value, sibling)
        node, last = node >> 1, last >> 1
    if last != 0 or value != root:  # (3)
        raise MerkleError(f"the proof of entry {index} does not lead to the root of size {size}")


def verify_consistency(
    old_size: int, old_root: bytes, size: int, root: bytes, path: Sequence[bytes]
) -> None:
    """Verify that the tree of `size` leaves begins with the tree of `old_size` leaves.

    RFC 9162 §2.1.4.2. (1) Sizes in order; hashes of 32 bytes. (2) Equal sizes: equal roots, and no
    path. The empty tree begins every tree, and has one root. (3) Climb from the old tree's last
    complete subtree, making both roots at once. (4) Both come out, at the root's height.

    Raises MerkleError.
    """
    _check_hashes((old_root, root, *path))  # (1)
    if not 0 <= old_size <= size <= LOG_SIZE_MAX:
        raise MerkleError(f"a log of {size} entries cannot begin with {old_size}")
    if old_size in {0, size}:  # (2)
        wanted = root if old_size == size else root_hash(())
        if path or old_root != wanted or (size == 0 and root != root_hash(())):
            raise MerkleError(f"sizes {old_size} and {size}: wanted no proof, and the roots to fit")
        return
    node, last = old_size - 1, size - 1  # (3)
    while node & 1:
        node, last = node >> 1, last >> 1
    hashes = iter(path)
    old = new = old_root if node == 0 else next(hashes, old_root)
    for sibling in hashes:
        if last == 0:
            raise MerkleError(f"a consistency proof of {len(path)} hashes is too long")
        if node & 1 or node == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        node, last = node >> 1, last >> 1
    if last != 0 or (old, new) != (old_root, root):  # (4)
        raise MerkleError(f"the log of {size} entries does not begin with that of {old_size}")


def _check_hashes(hashes: Sequence[bytes]) -> None:
    if len(hashes) > PROOF_HASHES_MAX + 2:
        raise SizeLimitError(f"a proof of {len(hashes) - 2} hashes; at most {PROOF_HASHES_MAX}")
    for each in hashes:
        if len(each) != HASH_BYTES:
            raise MerkleError(f"a hash of {len(each)} bytes, wanted {HASH_BYTES}")
