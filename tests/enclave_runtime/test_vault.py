"""Shares in memory: one thing each, no silent change, and gone when their moment has come."""

from __future__ import annotations

import os

import pytest

from enclave_runtime.vault import SHARES_MAX, Moment, Opens, Vault
from tests.enclave_runtime.fakes import World
from trust.artifacts import ArtifactKind, Core, Origin
from trust.custody import artifact_key, artifact_share, input_share, output_share
from trust.errors import CustodyError
from trust.jobs import InputRole
from trust.messages import ScopeKind


@pytest.fixture
def world() -> World:
    return World()


def made_core(world: World) -> Core:
    return Core(
        kind=ArtifactKind.ADAPTER,
        seal_id=os.urandom(32),
        custodians=world.entries,
        origin=Origin(job=world.job.digest, generation=1),
    )


def filled(world: World) -> Vault:
    vault = Vault()
    core = world.inputs[InputRole.MODEL].document.core
    entry = world.model.entry
    vault.put(
        Opens(scope=ScopeKind.INPUT, entry=entry, core=core.digest),
        input_share(world.model.key, core),
    )
    for lineage in world.lineages:
        share = output_share(lineage.key, world.job.digest, 1)
        vault.put(Opens(scope=ScopeKind.OUTPUT, entry=lineage.entry, core=None), share)
    return vault


def test_the_keys_are_those_that_the_custodians_make_themselves(world: World) -> None:
    vault = filled(world)
    core = world.inputs[InputRole.MODEL].document.core
    assert vault.key(ScopeKind.INPUT, core) == artifact_key(
        [input_share(world.model.key, core)], core
    )
    made = made_core(world)
    by_entry = {each.entry: each.key for each in world.lineages}
    again = artifact_key([artifact_share(by_entry[e], made) for e in made.custodians], made)
    assert vault.output_key(made) == again


def test_one_custodian_alone_makes_no_output_key(world: World) -> None:
    vault = Vault()
    share = output_share(world.model.key, world.job.digest, 1)
    vault.put(Opens(scope=ScopeKind.OUTPUT, entry=world.model.entry, core=None), share)
    with pytest.raises(CustodyError, match=world.buyer.identity.hex()):
        vault.output_key(made_core(world))


def test_another_share_for_the_same_thing_is_refused_and_the_first_stays(world: World) -> None:
    vault = filled(world)
    made = made_core(world)
    before = vault.output_key(made)
    opens = Opens(scope=ScopeKind.OUTPUT, entry=world.model.entry, core=None)
    with pytest.raises(CustodyError, match="another output share"):
        vault.put(opens, bytes(32))
    assert vault.output_key(made) == before
    vault.put(opens, output_share(world.model.key, world.job.digest, 1))  # the same is no change


def test_inputs_shares_are_forgotten_when_the_inputs_are_in_memory(world: World) -> None:
    vault = filled(world)
    vault.forget(Moment.FILLED)
    with pytest.raises(CustodyError, match="no input share"):
        vault.key(ScopeKind.INPUT, world.inputs[InputRole.MODEL].document.core)
    vault.output_key(made_core(world))  # still needed


def test_the_checkpoints_share_is_forgotten_when_it_is_loaded(world: World) -> None:
    vault, core = filled(world), made_core(world)
    for entry in core.custodians:
        vault.put(Opens(scope=ScopeKind.DERIVED, entry=entry, core=core.digest), os.urandom(32))
    vault.forget(Moment.FILLED)
    vault.key(ScopeKind.DERIVED, core)
    vault.forget(Moment.BEGUN)
    assert vault.missing(ScopeKind.DERIVED, core) == core.custodians


def test_what_is_forgotten_is_overwritten(world: World) -> None:
    vault = filled(world)
    held = list(vault._shares.values())
    vault.erase()
    assert len(vault) == 0
    assert all(not any(share) for share in held)


def test_an_erased_vault_keeps_nothing_more(world: World) -> None:
    vault = Vault()
    vault.erase()
    with pytest.raises(CustodyError, match="erased"):
        vault.put(Opens(scope=ScopeKind.OUTPUT, entry=world.model.entry, core=None), bytes(32))


def test_a_short_share_is_refused(world: World) -> None:
    with pytest.raises(CustodyError, match="31 bytes"):
        Vault().put(Opens(scope=ScopeKind.OUTPUT, entry=world.model.entry, core=None), bytes(31))


def test_the_vault_is_bounded(world: World) -> None:
    vault = Vault()
    for number in range(SHARES_MAX):
        core = number.to_bytes(32, "big")
        opens = Opens(scope=ScopeKind.DERIVED, entry=world.model.entry, core=core)
        vault.put(opens, bytes(32))
    with pytest.raises(CustodyError, match="more than"):
        vault.put(Opens(scope=ScopeKind.OUTPUT, entry=world.model.entry, core=None), bytes(32))


def test_printing_a_vault_shows_no_secret(world: World) -> None:
    vault = filled(world)
    shown = repr(vault) + str(vault)
    for share in vault._shares.values():
        assert bytes(share).hex() not in shown
        assert repr(bytes(share)) not in shown
