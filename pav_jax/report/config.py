"""The fields of the report, with their defaults."""

import dataclasses

from pav_jax.config_fields import option


@dataclasses.dataclass
class ReportConfig:
    """The HTML report."""

    title: str = option("Prompt booster report", "of the page")
    num_examples: int = option(8, "shown per prompt set, evenly spaced", minimum=0)
    num_worst: int = option(4, "largest losses shown per prompt set", minimum=0)
