"""`helm test` of a cluster: it becomes Available, and a key written through its Service is read back."""

import pathlib
import secrets
import ssl
import subprocess
import sys
import time

import httpx

MOUNT = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
SECONDS = 200.0  # below the 5 minutes that `helm test` waits
SERVICE_SECONDS = 15.0  # three of these and SECONDS stay below the 5 minutes too
KEY = "helm-test"


def unavailable(url: str, context: ssl.SSLContext, headers: dict[str, str]) -> str:
    """Why the RaftCluster is not Available as it is written now; nothing if it is."""
    try:
        told = httpx.get(url, verify=context, headers=headers, timeout=5, trust_env=False)
    except httpx.HTTPError as error:
        return f"{url}: {error}"
    if told.status_code != 200:
        return f"{url}: {told.status_code} {told.text.strip()[:300]}"
    cluster = told.json()
    status = cluster.get("status", {})
    if status.get("observedGeneration") != cluster["metadata"]["generation"]:
        return "the operator has not seen this RaftCluster yet: is it running?"
    for condition in status.get("conditions", []):
        if condition["type"] == "Available":
            return "" if condition["status"] == "True" else f"{condition['reason']}: {condition['message']}"
    return "there is no condition Available yet"


def oarlock(*arguments: str) -> str:
    """What the command printed. It is tried again for a while: a new Service reaches each node's kube-proxy late.

    Exits with what the command said last. Each command here may be carried out twice.
    """
    deadline = time.monotonic() + SERVICE_SECONDS
    while True:
        done = subprocess.run(["oarlock", *arguments], capture_output=True, text=True)
        if done.returncode == 0:
            return done.stdout
        print(done.stderr.strip(), flush=True)
        if time.monotonic() > deadline:
            sys.exit(f"`oarlock {arguments[0]}` did not succeed in {SERVICE_SECONDS:.0f} s")
        time.sleep(1)


def main(namespace: str, name: str) -> int:
    url = f"https://kubernetes.default.svc/apis/oarlock.dev/v1alpha1/namespaces/{namespace}/raftclusters/{name}"
    context = ssl.create_default_context(cafile=str(MOUNT / "ca.crt"))
    headers = {"Authorization": f"Bearer {(MOUNT / 'token').read_text()}"}
    deadline = time.monotonic() + SECONDS
    while why := unavailable(url, context, headers):
        if time.monotonic() > deadline:
            print(f"RaftCluster {namespace}/{name} is not Available: {why}")
            return 1
        time.sleep(1)
    service, key, value = f"http://{name}.{namespace}.svc:2379", f"{KEY}/{secrets.token_hex(8)}", secrets.token_hex(16)
    oarlock("put", key, value, "--endpoint", service)
    try:
        read = oarlock("get", key, "--endpoint", service)
    finally:
        oarlock("delete", key, "--endpoint", service)
    if read.strip() != value:
        print(f"wrote {value!r} to {key} and read {read!r}")
        return 1
    print(f"RaftCluster {namespace}/{name} is Available; {service} gave back what was written")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
