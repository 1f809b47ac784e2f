"""`python -m visavis.health ADDRESS`: whether a service answers, for a container's health check.

`host:port` is asked as a worker, by gRPC; `http://...` as a gateway. Ends with 0 or 1.
"""

import sys
import urllib.request


def worker_is_serving(address: str, timeout_s: float = 3) -> bool:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.RpcError:
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


def url_answers(url: str, timeout_s: float = 3) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


if __name__ == "__main__":
    address = sys.argv[1]
    answers = url_answers(address) if address.startswith("http") else worker_is_serving(address)
    sys.exit(0 if answers else 1)
