"""The nodes of a cluster: whether they can run trials."""

import logging

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from promptgraft.spaces import InvalidInputError

logger = logging.getLogger(__name__)


def check_nodes() -> None:
    """See that every node of a cluster that can run trials has this version installed.

    Raises:
        InvalidInputError: If one has not.
    """

    # Defined here, so that it travels by value: a node without the package could not import it.
    def installed() -> str | None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("promptgraft")
        except PackageNotFoundError:
            return None

    ours = installed()
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    answers = [
        ray.remote(installed)
        .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
        .remote()
        for node in nodes
    ]
    for node, answer in zip(nodes, answers, strict=True):
        try:
            theirs = ray.get(answer)
        except ray.exceptions.RayError as error:
            # It has died since: those that join in its place aren't asked either.
            logger.warning("node %s could not be asked for its version: %s", node["NodeManagerHostname"], error)
            continue
        if theirs != ours:
            raise InvalidInputError(
                f"node {node['NodeManagerHostname']} has promptgraft {theirs or 'not installed'}, but the driver has "
                f"{ours}; install the same wheel on every node"
            )
