"""Packs kernel and initrd of the test guest. The network is used by `fetch_kernel` alone."""

import io
import lzma
import os
import re
import shutil
import subprocess
from pathlib import Path

ENVIRONMENT = "BLINDHOST_TEST_GUEST"
KERNEL, INITRD = "kernel", "initrd"
SOURCE = Path(__file__).with_name("init.c")
MODULES = ("virtio_console", "qemu_fw_cfg")
SUFFIXES = (".ko", ".ko.xz", ".ko.zst")


def missing(folder: Path | None) -> str | None:
    """Why the guest can't be booted; None: it can."""
    if folder is None:
        return f"no test guest: make one, and name its folder in {ENVIRONMENT}"
    absent = [name for name in (KERNEL, INITRD) if not (folder / name).is_file()]
    return f"{folder.name} has no {' and no '.join(absent)}" if absent else None


def fetch_kernel(folder: Path) -> Path:
    """Debian's cloud kernel, unpacked below `folder` once; by apt."""
    root = folder / "package"
    if not list(root.glob("**/vmlinuz-*")):
        depends = subprocess.run(
            ["apt-cache", "depends", "linux-image-cloud-amd64"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        (name,) = re.findall(r"Depends: (linux-image-[0-9]\S+-cloud-amd64)", depends)[:1]
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", name], check=True, cwd=folder)
        (package,) = folder.glob(f"{name}_*.deb")
        subprocess.run(["dpkg-deb", "-x", str(package), str(root)], check=True)
    return root


def make_guest(root: Path, folder: Path) -> None:
    """Kernel and initrd in `folder`, from an unpacked kernel package."""
    (kernel,) = root.glob("**/vmlinuz-*")
    init = folder / "init"
    compiler = ["gcc", "-static", "-O2", "-Wall", "-Wextra", "-o", str(init), str(SOURCE)]
    subprocess.run(compiler, check=True)
    files = {"init": (init.read_bytes(), 0o100755)}
    files |= {f"{name}": (b"", 0o040755) for name in ("dev", "modules", "proc", "sys")}
    for number, module in enumerate(_in_order(root)):
        files[f"modules/{number:02d}.ko"] = (_plain(module), 0o100644)
    (folder / INITRD).write_bytes(_archive(files))
    shutil.copyfile(kernel, folder / KERNEL)
    init.unlink()


def _in_order(root: Path) -> list[Path]:
    """The modules that the guest needs, each after those that it depends on."""
    every = {
        path.name.split(".")[0].replace("-", "_"): path
        for path in root.glob("**/kernel/**/*")
        if path.name.endswith(SUFFIXES)
    }
    # virtio_pci is the bus below virtio_console, which names only what it links against.
    found: dict[str, Path] = {}

    def add(name: str) -> None:
        if name in found or name not in every:  # what is no module is built in
            return
        text = re.search(rb"\x00depends=([^\x00]*)\x00", b"\x00" + _plain(every[name]))
        for each in (text[1].decode() if text else "").split(","):
            add(each.replace("-", "_"))
        found[name] = every[name]

    for name in ("virtio_pci", *MODULES):
        add(name)
    return list(found.values())


def _plain(path: Path) -> bytes:
    content = path.read_bytes()
    if path.name.endswith(".xz"):
        return lzma.decompress(content)
    if path.name.endswith(".zst"):
        command = ["zstd", "-dc", str(path)]
        return subprocess.run(command, check=True, capture_output=True).stdout
    return content


def _archive(files: dict[str, tuple[bytes, int]]) -> bytes:
    """A newc cpio archive (Documentation/driver-api/early-userspace/buffer-format.rst)."""
    out = io.BytesIO()
    entries = [*sorted(files.items()), ("TRAILER!!!", (b"", 0))]
    for number, (name, (content, mode)) in enumerate(entries, 1):
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        out.write(b"070701" + b"".join(b"%08X" % each for each in fields))
        out.write(name.encode() + b"\x00")
        out.write(bytes(-out.tell() % 4))
        out.write(content)
        out.write(bytes(-out.tell() % 4))
    return out.getvalue()


def prepared() -> Path | None:
    """Where the test guest is, by the environment."""
    found = os.environ.get(ENVIRONMENT)
    return Path(found).resolve() if found else None
