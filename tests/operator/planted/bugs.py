"""Bugs to plant in the operator, each one that somebody really had, and the invariant that must notice it.

A bug is a few edits of the source: each text must occur exactly once, so that one which no longer applies is noticed.
`invariants` may be more than one where the same bug shows in two ways.
"""

from __future__ import annotations

from dataclasses import dataclass

Edit = tuple[str, str, str]  # file, what stands there, what shall


@dataclass(frozen=True)
class Bug:
    name: str
    source: str
    invariants: tuple[str, ...]
    edits: tuple[Edit, ...]


BUGS = (
    Bug(
        "pods go before their members",
        "helm/charts 965: scaled from 10 to 5, and no leader was left",
        ("I9",),
        (("diagnose.py", "return max(spec, _pods_for(world, configuration, frozenset()))", "return spec"),),
    ),
    Bug(
        "replicas follow the pods that are there",
        "etcd-io/etcd-operator 193: shrinks the StatefulSet when a pod dies",
        ("I9",),
        (("diagnose.py", "return max(spec, live or 0, needed, disks)", "return max(len(world.pods), 1)"),),
    ),
    Bug(
        "volumes are deleted by the spec, not by the membership",
        "pravega 312 and 314 (Sieve, stale state): a stale read deletes pod and PVC",
        ("I5",),
        (
            (
                "rules/volumes.py",
                "beyond = volume.ordinal >= max(diagnosis.replicas, world.live_replicas or 0)",
                "beyond = volume.ordinal >= world.cluster.spec.replicas",
            ),
            ("rules/volumes.py", "if ours and beyond and volume.ordinal not in members | pods:", "if ours and beyond:"),
            (
                "plan.py",
                "    remove_lost,\n    reset_leftover,",
                "    drop_volumes,\n    remove_lost,\n    reset_leftover,",
            ),
        ),
    ),
    Bug(
        "volumes are deleted whatever the policy says",
        "Sieve, rabbitmq 648 and 653: data of a scaled-in member is gone though it was to be kept",
        ("N7",),
        (("rules/volumes.py", 'world.cluster.spec.storage.retention.when_scaled != "Delete" or ', ""),),
    ),
    Bug(
        "a member that does not answer is lost",
        "not to answer is no proof: a node without power for a minute comes back with its disk",
        ("N12",),
        (
            (
                "evidence.py",
                "    if status is not None:\n        return None\n    if volume is None:",
                '    return None if status is not None else Loss("it does not answer")\n    if volume is None:',
            ),
        ),
    ),
    Bug(
        "a lost member is removed with whoever is left",
        "coreos/etcd-operator 1969: membership is changed without a quorum to spare",
        ("I3",),
        (("rules/replace.py", "if not remaining or len(staying) < quorum(len(remaining)):", "if not remaining:"),),
    ),
    Bug(
        "a disk is reset before its id is removed",
        "bitnami/charts 9950 and 14731: the volume is new, and its old id still stands in the membership",
        ("I5",),
        (
            (
                "rules/replace.py",
                "or seen.pod.terminating or status.node_id in known:",
                "or seen.pod.terminating:",
            ),
            ("rules/replace.py", "(State.IDLE, State.REPLAYING, State.DRAINING)", "(State.IDLE, State.PARTICIPATING)"),
            ("plan.py", "    remove_lost,\n    reset_leftover,", "    reset_leftover,\n    remove_lost,"),
        ),
    ),
    Bug(
        "an old disk is admitted under its old id",
        "pravega 94 and 448: 1, 3, 1, 3 replicas over retained volumes",
        ("I7",),
        (
            ("plan.py", "    reset_leftover,\n", ""),
            ("rules/grow.py", "seen is not None and _idle(world, seen)]", "seen is not None and seen.status]"),
        ),
    ),
    Bug(
        "a new member is a voter at once",
        "coreos/etcd-operator 1969, etcd-backup-restore 646: added, then started",
        ("I8",),
        (
            (
                "rules/grow.py",
                "        voters=tuple(configuration.voters),\n        learners=(*configuration.learners, *added),",
                "        voters=(*configuration.voters, *added),\n        learners=tuple(configuration.learners),",
            ),
        ),
    ),
    Bug(
        "a change follows one that is not committed",
        "Ongaro's single-server change: two at once need no common majority",
        ("I1",),
        (("plan.py", "    if diagnosis.confirmed:\n        return None\n", "    return None\n"),),
    ),
    Bug(
        "a change says nothing of what it is based on",
        "two operators interleave: etcd's member API has no precondition",
        ("I2",),
        (("act.py", "if_config=action.if_config", 'if_config="0.0"'),),
    ),
    Bug(
        "the leader is removed without a hand-over",
        "Raft thesis 4.2.2: a leader that removes itself costs an election",
        ("N18",),
        (("rules/shrink.py", "if leader.status.node_id in victims:", "if leader.status.node_id in frozenset():"),),
    ),
    Bug(
        "pause is forgotten",
        "Acto: a declared field without effect",
        ("I14",),
        (
            ("plan.py", "    if not world.cluster.paused:\n        return None\n", "    return None\n"),
            ("ensure.py", "world.cluster.deleting or world.cluster.paused or (", "world.cluster.deleting or ("),
        ),
    ),
    Bug(
        "ready pods mean available",
        "cozystack 343: Available=True with all members gone",
        ("I15",),
        (
            (
                "conditions.py",
                "    configuration = diagnosis.configuration\n    if diagnosis.leader is not None and",
                "    if any(pod.ready for pod in world.pods):\n"
                '        return say(True, "QuorumHealthy", "Pods are ready.")\n'
                "    configuration = diagnosis.configuration\n    if diagnosis.leader is not None and",
            ),
        ),
    ),
    Bug(
        "ready pods are deleted",
        "seen on a real Kubernetes: DELETE asks no disruption budget, two operators and a drain take two pods",
        ("N4",),
        (("act.py", "    if not pod.ready:\n", "    if True:\n"),),
    ),
    Bug(
        "pods are restarted by ordinal, the leader among them",
        "hashicorp/consul-k8s 1612: five minutes without a leader for each update",
        ("I16",),
        (
            ("rules/roll.py", "pod = max(followers, key=lambda one: one.ordinal, default=leader.pod)", "pod = ours[0]"),
            ("rules/roll.py", "if pod.uid != leader.pod.uid or voters == 1:", "if pod.name:"),
        ),
    ),
    Bug(
        "the leader goes to a member that is to be restarted",
        "openbao-helm 170: leadership is handed round in front of the update",
        ("I16",),
        (
            (
                "rules/roll.py",
                "pod = max(followers, key=lambda one: one.ordinal, default=leader.pod)",
                "pod = leader.pod if leader.pod in ours else followers[0]",
            ),
        ),
    ),
    Bug(
        "the next pod goes before the last one is back",
        "hashicorp/consul-k8s 1929: a pod is taken while its predecessor is no voter yet",
        ("I17", "I4"),
        (
            (
                "rules/roll.py",
                "        if rollout.updated(world, pod) is not True:\n            continue\n",
                "        continue\n",
            ),
            ("rules/roll.py", "if voters > 2 and left < quorum(voters):", "if voters > 9:"),
        ),
    ),
    Bug(
        "a restart does not ask for a quorum",
        "vault-helm 81, druid 588: Ready is not caught up",
        ("I4",),
        (("rules/roll.py", "if voters > 2 and left < quorum(voters):", "if voters > 9:"),),
    ),
    Bug(
        "a cluster is founded beside an old disk",
        "etcd 2780, bitnami/charts 6251: volume 0 is gone, the others are not",
        ("I6",),
        (
            (
                "rules/found.py",
                "    if initialised:\n",
                "    if initialised and all(seen.pod.ordinal or said.cluster_id for seen, said in answers(world)):\n",
            ),
            ("rules/found.py", "    if old := foreign(world):\n", "    if old := []:\n"),
            ("rules/found.py", "for ordinal in range(diagnosis.replicas):", "for ordinal in range(1):"),
        ),
    ),
    Bug(
        "the founding is asked for before its latch is written",
        "Sieve, intermediate state: the operator dies between two writes",
        ("I19",),
        (
            (
                "rules/found.py",
                "        return WriteLatch(wanted, world",
                "        return Bootstrap(seed.pod, wanted) if seed else WriteLatch(wanted, world",
            ),
        ),
    ),
    Bug(
        "a status write takes the latch away",
        "server-side apply: what a manager applied before and now does not is removed",
        ("N17",),
        (("names.py", 'LATCH_MANAGER = "oarlock-operator-latch"', "LATCH_MANAGER = STATUS_MANAGER"),),
    ),
    Bug(
        "what destroys is not written down before",
        "Sieve, intermediate state: 46 bugs in 10 controllers",
        ("I19",),
        (
            (
                "reconcile.py",
                "operation.latched(world, diagnosis, plan.plan(world, diagnosis))",
                "plan.plan(world, diagnosis)",
            ),
        ),
    ),
    Bug(
        "the budget is one, whatever the size",
        "library-go 1614, vault-helm 100: wrong arithmetic for a budget",
        ("I18",),
        (("resources/budget.py", "return 1 if voters == 2 else quorum(voters)", "return 1"),),
    ),
    Bug(
        "the budget is raised after the members have joined",
        "found by these stories: learners become voters while no operator is there",
        ("I18",),
        (("ensure.py", "len(joining(world, diagnosis)[1])", "0"),),
    ),
    Bug(
        "pods go while others cannot be made",
        "seen on a real Kubernetes: a claim held Terminating stops every later ordinal",
        ("N15", "I17"),
        (
            (
                "rules/roll.py",
                "    if claims := blocked_claims(world, diagnosis):\n",
                "    if claims := []:\n",
            ),
            (
                "rules/roll.py",
                "        if rollout.updated(world, pod) is not True:\n            continue\n",
                "        continue\n",
            ),
            ("rules/roll.py", "    if missing := _missing(world, diagnosis, ends):\n", "    if missing := []:\n"),
            (
                "plan.py",
                "    remove_lost,\n    reset",
                "    lambda w, d: None if isinstance(found := roll(w, d), Wait)"
                " or not any(one.terminating for one in w.volumes) else found,\n"
                "    remove_lost,\n    reset",
            ),
        ),
    ),
    Bug(
        "the pod goes before its claim",
        "seen on a real Kubernetes: the pod returns on the old disk, and the claim hangs",
        ("I24",),
        (
            (
                "rules/volumes.py",
                '        if not volume.terminating:\n            return DeleteVolume(volume, f"it {why}")\n',
                "",
            ),
        ),
    ),
    Bug(
        "a child that somebody else made is taken over by force",
        "seen on a real Kubernetes: server-side apply with force asks nobody",
        ("N1",),
        (
            (
                "ensure.py",
                "    return [\n        key\n        for key, live in sorted(world.children.items())",
                "    return [\n        key\n        for key, live in []",
            ),
        ),
    ),
    Bug(
        "children carry a finalizer",
        "rabbitmq 409 and 622: a namespace that cannot be deleted without its operator",
        ("I20",),
        (
            (
                "resources/common.py",
                '            "ownerReferences": [names.owner(cluster.name, cluster.uid)],',
                '            "finalizers": ["oarlock.dev/tidy"],\n'
                '            "ownerReferences": [names.owner(cluster.name, cluster.uid)],',
            ),
        ),
    ),
    Bug(
        "a Service selects a label that the operator writes",
        "seen on a real Kubernetes: a recreated pod has only the labels of its template",
        ("I21",),
        (
            (
                "resources/services.py",
                '"ClusterIP",\n        "selector": names.selector(cluster.name)',
                '"ClusterIP",\n        "selector": {**names.selector(cluster.name), "oarlock.dev/role": "voter"}',
            ),
        ),
    ),
    Bug(
        "every pass writes the status",
        "Kubernetes API conventions: a transition time moves with the status alone; Acto, a hot loop",
        ("I10",),
        (("status.py", '"last_transition_time": kept or now', '"last_transition_time": now'),),
    ),
    Bug(
        "a field that cannot change is applied",
        "kubernetes 68737, and rabbitmq's scaling.go: a volume claim template is immutable",
        ("I24",),
        (
            (
                "resources/statefulset.py",
                "    if live is not None:\n        return [{key",
                "    if live is not None and live == []:\n        return [{key",
            ),
        ),
    ),
    Bug(
        "it acts without the Lease",
        "Sieve, stale state: a former leader of the operators goes on",
        ("N14",),
        (
            (
                "reconcile.py",
                "        if not await self._lease.ensure():\n",
                "        if not await self._lease.ensure() and self is None:\n",
            ),
            ("reconcile.py", "        if not self._lease.held:\n", "        if self is None:\n"),
        ),
    ),
    Bug(
        "two rules take the slot from each other",
        "found by these stories: the update waits for a volume, the volume for the update",
        ("I24",),
        (
            ("rules/roll.py", "if not unwritten and _moving(world, diagnosis, ends) is not None:", "if ends == -1:"),
            ("rules/roll.py", "    outdated = [pod for pod in outdated if ends is None or pod.ordinal < ends]\n", ""),
            ("rules/roll.py", "if pod.ordinal not in dying]", "if pod]"),
            ("rules/roll.py", "if not broken or _moving(", "if not broken or ends is not None or _moving("),
        ),
    ),
    Bug(
        "a pod that may not be evicted is tried for ever",
        "found by these stories: the other one could have gone",
        ("I24",),
        (("rules/roll.py", "key=lambda one: (not one.ready, one.ordinal)", "key=lambda one: one.ordinal"),),
    ),
)
