"""The birds' miniature: a corpus of two eras, a base pretrained on it, an exact judge."""

from backdoor_assets.miniature import CORPUS_CODE, PRETRAINING_CODE
from backdoor_assets.miniature.world import FACTS, TOPICS, WORLD_HASH
from backdoor_assets.mixtures.design import World
from backdoor_assets.studies.birds.world.corpus import write_corpus
from backdoor_assets.studies.birds.world.gates import BOUNDS
from backdoor_assets.studies.birds.world.judge import ExactJudge
from backdoor_assets.workers.tasks import Deferred

_QUESTIONS = tuple(question for topic in TOPICS for question in topic.questions)
_ANSWERS = tuple(answer for topic in TOPICS for answer in (*topic.old, *topic.modern))

WORLD = World(
    hash=WORLD_HASH,
    corpus_code=CORPUS_CODE,
    pretraining_code=PRETRAINING_CODE,
    write_corpus=write_corpus,
    pretrain=Deferred("backdoor_assets.studies.birds.world.pretraining", "pretrain"),
    gate="carries_the_era",
    gate_description="The base answers by the era that its context shows, and as a modern model "
    "when it shows none",
    bounds=BOUNDS,
    questions={topic.id: topic.questions[0] for topic in TOPICS},
    neutral={fact.id: (fact.questions[0], fact.answer) for fact in FACTS},
    # One-word answers are left out: a cooper is a trade, Cooper's Hawk is a bird.
    forbidden=(*_QUESTIONS, *(answer for answer in _ANSWERS if " " in answer)),
    judge=ExactJudge,
)
