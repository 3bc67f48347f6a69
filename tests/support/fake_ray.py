"""Ray as far as a batch uses it, in one process: calls end in an order drawn at random, and processes die at random."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


class RayError(Exception):
    """Any error of Ray itself."""


class RayActorError(RayError):
    """The process of an actor has ended."""


@dataclass(eq=False)
class Reference:
    """The result of a call, not made yet."""

    make: Callable[[], Any]
    actor: Any = None
    made: list[Any] = field(default_factory=list)


@dataclass
class FakeRay:
    """Stands in the place of the module.

    Attributes:
        drawn: Draws order and deaths.
        deaths: Chance that the process of a call ends, half of them before the call did anything, half after.
        lost: Chance that what a task returned is lost.
        resources: Of the cluster.
        most: Largest number of tasks that had been given and whose results nobody had taken.
    """

    drawn: random.Random
    deaths: float = 0.0
    lost: float = 0.0
    resources: dict[str, float] = field(default_factory=lambda: {"CPU": 3.0})
    most: int = 0
    options: list[dict[str, Any]] = field(default_factory=list)
    waiting: int = 0
    alive: int = 0
    exceptions: Any = field(default_factory=lambda: SimpleNamespace(RayError=RayError, RayActorError=RayActorError))

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def remote(self, **options: Any) -> Callable[[Any], Any]:
        self.options.append(options)

        def decorate(target: Any) -> Any:
            make = self._actor if isinstance(target, type) else self._task
            return SimpleNamespace(remote=lambda *arguments: make(target, *arguments))

        return decorate

    def _actor(self, target: type) -> Any:
        self.alive += 1
        actor = SimpleNamespace(instance=target(), dead=False)
        for name in ("start", "do"):
            method = getattr(actor.instance, name)
            call = self._caller(actor, method)
            setattr(actor, name, SimpleNamespace(remote=call))
        return actor

    def _caller(self, actor: Any, method: Callable[..., Any]) -> Callable[..., Reference]:
        def call(*arguments: Any) -> Reference:
            def make() -> Any:
                if actor.dead:
                    raise RayActorError
                given = [self.get(value) if isinstance(value, Reference) else value for value in arguments]
                fate = self.drawn.random()
                result = method(*given) if fate > self.deaths / 2 else None
                if fate < self.deaths:
                    actor.dead = True
                    self.alive -= 1
                    raise RayActorError
                return result

            return Reference(make, actor)

        return call

    def _task(self, target: Callable[..., Any], *arguments: Any) -> Reference:
        self.waiting += 1
        self.most = max(self.most, self.waiting)

        def make() -> Any:
            self.waiting -= 1
            if self.drawn.random() < self.lost:
                raise RayError("the object is lost")
            return target(*arguments)

        return Reference(make)

    def wait(self, references: Sequence[Reference], *, num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        del num_returns, timeout
        return ([self.drawn.choice(references)] if references else []), []

    def get(self, reference: Reference) -> Any:
        if not reference.made:
            reference.made.append(reference.make())
        return reference.made[0]

    def kill(self, actor: Any) -> None:
        actor.dead = True
