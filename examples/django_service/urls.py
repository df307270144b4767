"""A shop that stays up while what it calls is down, with Django."""

import os
import urllib.request

from django.http import HttpRequest, JsonResponse
from django.urls import path

from resilient import Dependency, circuit_breaker, deadline_headers

UPSTREAM = os.environ.get("UPSTREAM", "http://127.0.0.1:9001")

recommendations = Dependency(
    "recommendations", failures=OSError, timeout=0.5, breaker=circuit_breaker(fail_max=3)
)
payments = Dependency(
    "payments", critical=True, failures=OSError, timeout=1, breaker=circuit_breaker(fail_max=3)
)


def fetch(path: str) -> str:
    # What the visitor's client has left is what the upstream is given.
    request = urllib.request.Request(UPSTREAM + path, headers=deadline_headers())
    with urllib.request.urlopen(request, timeout=2) as response:
        text: str = response.read().decode()
        return text


@recommendations.with_fallback("what is popular")
def recommended() -> str:
    return fetch("/recommended")


@payments
def charge() -> str:
    return fetch("/charge")


def product(_request: HttpRequest) -> JsonResponse:
    return JsonResponse({"product": "teapot", "recommended": recommended()})


def pay(_request: HttpRequest) -> JsonResponse:
    return JsonResponse({"paid": charge()})


urlpatterns = [path("product", product), path("pay", pay)]
