"""Does the router route? As sections of study/README.md."""

from pathlib import Path

from study.intervals import DAGGER, Difference, by_task, number, rate
from study.markdown import played_on, read, table, text, words
from study.router.table import PREDICTIONS
from study.router.table import WAYS as WAKING

ROUTES = (0.2, -10)  # at least so many nats, at most so many points with another task's weights: study/router/table.py


def routes(found: dict) -> bool:
    """Whether a router routes, by the rule that was written down before any was measured."""
    told, swapped = found["tells"]["task"], found["changed"]["another task's"]["difference"]
    knows = told["above"] >= ROUTES[0] and told["interval"][0] > max(found["untrained"]["task"])
    return knows and swapped["mean"] <= ROUTES[1] and swapped["high"] < 0


def waking(study: Path) -> list[str]:
    found = read(study, "router/wake/*.json")
    names, missing = ([name for name in WAKING if (name in found) == there] for there in (True, False))
    rows = []
    for name in names:
        r = found[name]

        def change(what: str, r: dict = r) -> str:
            entry = r["changed"][what]
            return f"{number(entry['success'])} ({Difference(**entry['difference'])})"

        nats = [f"{number(told['above'], 2)} [{', '.join(number(x, 2) for x in told['interval'])}]"
                for told in map(r["tells"].get, ("task", "flags", "step"))]  # fmt: skip
        rows.append([name, len(r["similarity"]["signed"]), f"{r['parameters']:,}",
                     rate(by_task([{"tasks": r["played"]}])),
                     *map(change, ("1/K", "another task's", "mean over tasks", "top two")), *nats,
                     number(max(r["untrained"]["task"]), 2), number(r["contrast"], 0),
                     number(r["similarity"]["effective_rank"], 1), "yes" if routes(r) else "no",
                     PREDICTIONS[name]])  # fmt: skip
    one = found[names[0]]
    successes, n = (sum(e[key] for e in one["expert"].values()) for key in ("successes", "n"))
    header = ["way", "K", "parameters", "success, 95 % interval", "weights 1/K", "another task's", "their mean over "
              "tasks", "top two", "nats about the task", "about flags", "about time", "untrained, about the task",
              "contrast", "effective rank", "routes", "predicted: does it route?"]  # fmt: skip
    most = one["tells"]["task"]["most"]
    return [
        *text("Commands: `study/router/table.py`; `python study/router/measure.py --run RUN` for any other run. mt6, "
              f"25 demonstrations, 6,000 steps, one seed. {played_on([{'tasks': one['played']}])} The expert: "
              f"{number(successes / n)}.", f"Not measured yet: {words(missing)}." if missing else ""),
        *table(header, rows), *text(DAGGER),
        *text("In brackets: points more or less than as it is, with their interval. Nats: what a component, drawn by "
              f"the weights, tells about the task (ln K and ln 6 are the most: {number(most, 2)} with K = 4) above "
              "shuffled labels; about what the environment reports (near the object, grasped) above the same of "
              "another episode of the task; and about the time in the episode. Untrained: the most that five routers "
              "tell which have learned nothing and weigh in the same way. Contrast: success lost without a component, "
              "the task that loses most minus the median task, in points, mean over components. *Routes*, by a rule "
              f"written down beforehand: {ROUTES[0]} nats about the task, with an interval above the untrained; and "
              f"{-ROUTES[1]} points lost with weights of another task, with an interval below zero."),
    ]  # fmt: skip
