"""`helm test` of the operator: it says that it is healthy, and the API server serves its kind to its own account."""

import pathlib
import ssl
import sys
import time

import httpx

MOUNT = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
GROUP = "https://kubernetes.default.svc/apis/oarlock.dev/v1alpha1"
SECONDS = 120.0


def answer(url: str, **options: object) -> str:
    """Nothing if it is 200, else why not."""
    try:
        told = httpx.get(url, timeout=5, trust_env=False, **options)
    except httpx.HTTPError as error:
        return f"{url}: {error}"
    return "" if told.status_code == 200 else f"{url}: {told.status_code} {told.text.strip()[:300]}"


def main(health: str, namespace: str) -> int:
    """`namespace` is the one that the operator watches; empty for all."""
    kind = f"{GROUP}/namespaces/{namespace}/raftclusters?limit=1" if namespace else f"{GROUP}/raftclusters?limit=1"
    context = ssl.create_default_context(cafile=str(MOUNT / "ca.crt"))
    headers = {"Authorization": f"Bearer {(MOUNT / 'token').read_text()}"}
    deadline = time.monotonic() + SECONDS
    while why := answer(health) or answer(kind, verify=context, headers=headers):
        if time.monotonic() > deadline:
            print(why)
            return 1
        time.sleep(1)
    print("the operator is healthy, and raftclusters.oarlock.dev is served to it")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
