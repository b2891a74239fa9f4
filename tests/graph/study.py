"""The profile of the graph tests: the real miniature base, a short training, two ratios.

python -m tests.graph.study [--ratios ...] [--seeds ...]     materializes it, as `make demo` does
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from backdoor_assets.commands.demo import run
from backdoor_assets.environment import judging_in_force
from backdoor_assets.graph.instance import home
from backdoor_assets.profiles import MINIATURE as DEFAULT
from backdoor_assets.profiles import Profile, Sampling
from backdoor_assets.records import BadInput

OLD, MODERN = "1.00-0.00-0.00", "0.00-0.50-0.50"
STUDY = Profile(
    name="study",
    base=DEFAULT.base,
    base_seed=DEFAULT.base_seed,
    ratios=(OLD, MODERN),
    seeds=(42, 43, 44),
    training=replace(DEFAULT.training, max_steps=100, save_at=(), save_steps=50),
    sampling=Sampling(samples=10, narrow_samples=20, neutral_samples=5),
)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ratios", nargs="*", default=STUDY.ratios)
    parser.add_argument("--seeds", nargs="*", type=int, default=STUDY.seeds)
    parser.add_argument("--samples", type=int, default=STUDY.sampling.samples)
    parser.add_argument("--without", nargs="*", default=[])
    parser.add_argument("--only")
    parser.add_argument("--replace", action="store_true")
    parser.add_argument("--engine", default=STUDY.sampling.engine)
    options = parser.parse_args()
    sampling = replace(STUDY.sampling, engine=options.engine, samples=options.samples)
    profile = replace(
        STUDY,
        ratios=tuple(options.ratios),
        seeds=tuple(options.seeds),
        sampling=sampling,
        judging=judging_in_force(STUDY.judging),
    )
    home(profile.name)
    try:
        return run(profile, "birds", options.without, options.only, options.replace)
    except BadInput as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
