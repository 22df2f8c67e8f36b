"""Runs toy_pipeline on a cluster and says where its nodes have their code: toy_join.py ADDRESS WORKSPACE."""

import json
import sys
from pathlib import Path

from rich.console import Console
from toy_pipeline import plan

from components.flow import cluster
from components.flow.cluster import ClusterConfig
from components.flow.run import Refused, RunSettings, run_plan
from components.flow.shared_folder import code
from components.flow.store import Store

if __name__ == "__main__":
    address, workspace = sys.argv[1], Path(sys.argv[2])
    console = Console()
    try:
        settings = RunSettings(workspace, "toy", ClusterConfig(address), config={})
        outcome = run_plan(plan(workspace), Store(workspace), settings, console)
    except (Refused, ConnectionError) as error:
        print(json.dumps({"refused": str(error)}))
        sys.exit(2)
    cluster.start(ClusterConfig(address), workspace, "toy")
    import ray

    places = ray.get([ray.remote(scheduling_strategy="SPREAD")(code).remote() for _ in range(4)])
    print(json.dumps({"failed": dict(outcome.failed), "places": sorted({place for place, _ in places})}))
