"""The splits of a simulation: the patients of all sites are stratified at once."""

from pathlib import Path

from mdmt.config import FederationConfig
from mdmt.data.readers import inspect_manifest
from mdmt.data.splits import write_division
from mdmt.data.stratified import stratify


def divide_sites(config: FederationConfig, out: Path) -> FederationConfig:
    """Write the stratified splits of all sites to ``splits/`` of the run directory.

    A patient of two sites is then on one side. Splits that a dataset gives, those by hash, and
    those of a study's fold stay as they are. A resumed run keeps the files of its first start.

    Parameters
    ----------
    config : FederationConfig
    out : Path
        The run directory.

    Returns
    -------
    FederationConfig
        Its sites read these files.

    Raises
    ------
    DataError
        A table cannot be read.
    """
    free = {name: site for name, site in config.sites.items() if site.fold is None}
    sites = {n: s.model_copy(update={"tasks": s.offered}) for n, s in free.items()}
    manifests = {name: inspect_manifest(site, config.seed)[0] for name, site in sites.items()}
    drawn = [name for name, m in manifests.items() if m.division.by == "stratified"]
    if not drawn or len(sites) == 1:  # a site alone stratifies its own patients in the same way
        return config
    files = {name: out / "splits" / f"{name}.csv" for name in drawn}
    if not all(file.exists() for file in files.values()):
        divided = stratify(sites, manifests, config.seed)
        for name, file in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_division(file, divided[name])
    own = {name: config.sites[name].model_copy(update={"fold": f}) for name, f in files.items()}
    return config.model_copy(update={"sites": {**config.sites, **own}})
