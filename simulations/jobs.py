"""A request on a simulated replica: how far it is, and under which plans its tokens were made."""

from dataclasses import dataclass

from controller.signals import Plan

PAGE_TOKENS = 64  # of the cache, as runtime.engine has it


def pages_of(tokens: int) -> int:
    return -(-tokens // PAGE_TOKENS)


@dataclass(slots=True, eq=False)
class Job:
    index: int  # in the schedule; of two with one deadline the first goes first
    slo_class: str
    priority: int
    deadline_s: float  # of its first token
    prompt_tokens: int
    output_tokens: int  # in the end
    prefill_tokens: int  # the prompt's, and after a preemption those generated before
    cached: int = 0  # tokens whose keys and values are kept
    pages: int = 0  # of the cache, for them; 0: it has not entered
    generated: int = 0
    first_token_s: float | None = None
    quality_sum: float = 0.0  # over its tokens, of the plans that made them
    mean_k_sum: float = 0.0
    # While it decodes, counted in the steps of its cohort:
    since: int = 0  # what is said above is of then
    end: int = 0  # the step after which it is done

    @property
    def id(self) -> str:
        return str(self.index)

    @property
    def to_prefill(self) -> int:
        return self.prefill_tokens - self.cached

    def generate(self, tokens: int, plan: Plan) -> None:
        self.generated += tokens
        self.quality_sum += tokens * plan.quality_of(self.slo_class)
        self.mean_k_sum += tokens * plan.mean_k_of(self.slo_class)

    def settle(self, step: int, plan: Plan) -> None:
        """Count what its cohort has done until this step, all of it under this plan."""
        done, self.since = step - self.since, step
        self.cached += done
        self.pages = pages_of(self.cached)
        self.generate(done, plan)

    def begin_anew(self) -> None:
        """Its cache is gone: what it had generated is to be prefilled too."""
        self.prefill_tokens = self.prompt_tokens + self.generated
        self.cached = self.pages = 0
