"""Start three nodes, ask each who it is, and take them down."""

from pytest_pidoc import Cluster


def main() -> None:
    with Cluster.up(nodes=3) as cluster:
        results = cluster.run("uname -a")
        for node in cluster:
            print(node.name, node.port, results[node.connection].stdout.strip())
        print(f"ready after {cluster.timings.ready:.1f} s")


if __name__ == "__main__":
    main()
