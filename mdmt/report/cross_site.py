"""The model of each site, tested at every site that has labels of its task."""

from collections.abc import Iterator

from mdmt.report.page import Table
from mdmt.report.words import metric_name
from mdmt.results.predictions import ALL
from mdmt.results.statistics import mean_of
from mdmt.results.studies import Study


def cross_site_tables(study: Study) -> Iterator[Table]:
    """Yield a matrix per task and backbone: a row per arm and site of the model.

    Tasks of one site have none, and arms without a model of a site are left out.
    """
    for task, space in study.spaces.items():
        sites = [site for one, site in study.tested() if one == task and site != ALL]
        for backbone in study.backbones if len(sites) > 1 else ():
            rows = []
            for arm in study.arms:
                found = study.elsewhere(arm, task)
                for model in sites if found else ():
                    found[model, model] = study.values(arm, model, task, space.primary)
                    means = []
                    for site in sites:
                        values = found.get((model, site), {})
                        cells = {c: v for c, v in values.items() if c.backbone == backbone}
                        means.append(mean_of(study.tests.means(task, site, cells)))
                    rows.append([arm, model, *map(str, means)])
            if rows:
                yield Table(
                    f"{task}, {backbone}: {metric_name(space.primary)} of each site's model at"
                    f" each site ({space.primary_is_better_when} is better)",
                    ["arm", "model of", *(f"tested at\n{site}" for site in sites)],
                    rows,
                    note="Mean ± standard error over test sets, as in the tables of results. No"
                    " patient of a test set is among those that any of the models learned from.",
                    words=frozenset({1}),
                )
