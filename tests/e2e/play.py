"""`make kube`: the tests' Kubernetes for a person, with the operator installed, until Ctrl-C."""

from __future__ import annotations

import signal
import sys

from tests.e2e.cluster import ROOT, Kubernetes, prepared

SAYING = """
  export KUBECONFIG={kubeconfig}
  alias kubectl='{binaries}/kt kubectl'

  kubectl apply -f manifests/samples/three.yaml
  kubectl get raftcluster three --watch

Ctrl-C ends it and removes everything that ran in it.
"""


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits it ignored
    binaries, archives = prepared()
    kube = Kubernetes(binaries)
    try:
        kube.start()
        kube.load(*archives)
        kube.kubectl("apply", "-f", ROOT / "manifests/install.yaml")
        kube.kubectl("wait", "--for=condition=established", "crd/raftclusters.oarlock.dev", "--timeout=60s")
        print(SAYING.format(kubeconfig=kube.kubeconfig, binaries=binaries), flush=True)
        signal.pause()
    except KeyboardInterrupt:
        print("ending it", flush=True)
    finally:
        kube.stop()


if __name__ == "__main__":
    main()
