"""A release of the chart in a real cluster: helm and kubectl, as the environment has them."""

from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path
from typing import Any, Final

import yaml

CHART: Final = Path(__file__).parents[2] / "helm" / "hubwire"
"""The chart as it is now."""
ROLES: Final = ("gateway", "router", "controlplane", "nats")
SECONDS: Final = 900
KINDS: Final = (
    "pods,deployments,statefulsets,services,configmaps,secrets,serviceaccounts,persistentvolumeclaims,"
    "poddisruptionbudgets,networkpolicies,horizontalpodautoscalers,ingresses,jobs"
)


class Failed(Exception):
    """A command that did not work, with what it said."""


def command(*words: str, stdin: str | None = None, seconds: float = SECONDS) -> str:
    """Its output. Raises Failed, or subprocess.TimeoutExpired."""
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, timeout=seconds, check=False)
    if done.returncode != 0:
        raise Failed(f"{' '.join(words)[:200]}: {(done.stderr or done.stdout)[-1500:]}")
    return done.stdout


class Release:
    """One installation, in a namespace of its own, which is removed with it. All methods block."""

    def __init__(self, name: str, namespace: str, values: dict[str, Any]) -> None:
        self.name = name
        self.namespace = namespace
        self.full = f"{name}-hubwire"
        self._values = values

    def kubectl(self, *words: str, stdin: str | None = None) -> str:
        return command("kubectl", "--namespace", self.namespace, *words, stdin=stdin)

    def helm(self, *words: str, stdin: str | None = None) -> str:
        return command("helm", "--namespace", self.namespace, *words, stdin=stdin)

    def prepare(self, keys: dict[str, str]) -> None:
        """The namespace, with Pod Security's strictest standard, and the Secret that the values name."""
        self.kubectl("create", "namespace", self.namespace)
        label = "pod-security.kubernetes.io/enforce=restricted"
        self.kubectl("label", "namespace", self.namespace, label)
        self.secret("test-keys", keys)

    def secret(self, name: str, values: dict[str, str]) -> None:
        """Made, or replaced."""
        metadata = {"name": name}
        manifest = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": values}
        self.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))

    def apply(self, chart: Path, *, wait: bool = True, **changes: Any) -> None:
        """Install or upgrade, and (unless `wait` is False) wait until all of it is ready. `changes` stay:
        they are values by path, with `__` for a dot."""
        for path, value in changes.items():
            *parents, last = path.split("__")
            node = self._values
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = value
        told = json.dumps(self._values)
        words = ["upgrade", "--install", self.name, str(chart), "--values", "-"]
        self.helm(*words, *(["--wait", "--timeout", "10m"] if wait else []), stdin=told)
        if wait:
            self.settled()

    def test(self) -> None:
        self.helm("test", self.name, "--timeout", "5m")

    def rollback(self, revision: int) -> None:
        self.helm("rollback", self.name, str(revision), "--wait", "--timeout", "10m")
        self.settled()

    def version(self, chart: Path) -> str:
        """What a chart says that it is."""
        shown: str = yaml.safe_load(self.helm("show", "chart", str(chart)))["version"]
        return shown

    def workload(self, role: str) -> str:
        return f"{'statefulset' if role == 'nats' else 'deployment'}/{self.full}-{role}"

    def restart(self, role: str) -> None:
        """A rolling restart, until it is over."""
        self.kubectl("rollout", "restart", self.workload(role))
        self.settled(role)

    def settled(self, *roles: str) -> None:
        """Until what is there is what is wanted, and the pods of before have gone."""
        for role in roles or ROLES:
            self.kubectl("rollout", "status", self.workload(role), f"--timeout={SECONDS}s")
            while leaving := [p["metadata"]["name"] for p in self.pods(role) if self._leaves(p)]:
                self.kubectl("wait", "--for=delete", f"--timeout={SECONDS}s", *(f"pod/{p}" for p in leaving))

    @staticmethod
    def _leaves(pod: dict[str, Any]) -> bool:
        return "deletionTimestamp" in pod["metadata"]

    def pods(self, role: str) -> list[dict[str, Any]]:
        label = f"app.kubernetes.io/instance={self.name},app.kubernetes.io/component={role}"
        found: list[dict[str, Any]] = json.loads(self.kubectl("get", "pods", "-l", label, "-o", "json"))[
            "items"
        ]
        return found

    def delete_pod(self, role: str) -> None:
        self.kubectl("delete", "pod", self.pods(role)[0]["metadata"]["name"])
        self.settled(role)

    def kill(self, role: str, process: str) -> None:
        """kill -9 of the process in a pod; its container is started again."""
        pod = self.pods(role)[0]["metadata"]["name"]
        script = (
            "import os, pathlib\n"
            "for p in pathlib.Path('/proc').glob('[0-9]*'):\n"
            f"    if (p / 'comm').read_text().strip() == {process!r}: os.kill(int(p.name), 9)\n"
        )
        before = self._restarts(pod)
        # The container may end, and this command with it, before the command's own end is heard.
        with contextlib.suppress(Failed):
            self.kubectl("exec", pod, "--", "python", "-c", script)
        restarted = f"--for=jsonpath={{.status.containerStatuses[0].restartCount}}={before + 1}"
        self.kubectl("wait", restarted, "--timeout=120s", f"pod/{pod}")
        self.kubectl("wait", "--for=condition=Ready", f"--timeout={SECONDS}s", f"pod/{pod}")

    def _restarts(self, pod: str) -> int:
        path = "jsonpath={.status.containerStatuses[0].restartCount}"
        return int(self.kubectl("get", "pod", pod, "-o", path))

    def nodes(self) -> list[str]:
        return command("kubectl", "get", "nodes", "-o", "name").split()

    def drain_node(self) -> str:
        """Cordon and drain the node of a gateway, then let it take pods again. The node's name."""
        node = str(self.pods("gateway")[0]["spec"]["nodeName"])
        try:
            command(
                "kubectl", "drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=10m"
            )
            self.settled()
        finally:
            command("kubectl", "uncordon", node)
        return node

    def save_logs(self, folder: Path) -> None:
        """The last lines of every container, and of the one before where there was one."""
        folder.mkdir(parents=True, exist_ok=True)
        for pod in (one for role in ROLES for one in self.pods(role)):
            name = str(pod["metadata"]["name"])
            words = ["logs", name, "--all-containers", "--tail=5000"]
            (folder / f"{name}.log").write_text(self.kubectl(*words))
            if any(one["restartCount"] for one in pod["status"]["containerStatuses"]):
                (folder / f"{name}.previous.log").write_text(self.kubectl(*words, "--previous"))

    def uninstall(self) -> str:
        """Remove it, and tell what is left of it (which should be nothing)."""
        self.helm("uninstall", self.name, "--wait", "--timeout", "10m")
        label = f"app.kubernetes.io/instance={self.name}"
        self.kubectl("wait", "--for=delete", "pod,persistentvolumeclaim", "-l", label, "--timeout=300s")
        return self.kubectl("get", KINDS, "-l", label, "-o", "name").strip()

    def remove_namespace(self) -> None:
        command("kubectl", "delete", "namespace", self.namespace, "--ignore-not-found", "--timeout=300s")
