"""The tools that tasks offer: one intent under several spellings each, so a call must be read from the list."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from experts.zoo.tasks.base import Tool
from experts.zoo.tasks.words import (
    CITIES,
    COLORS,
    CURRENCIES,
    DAYS,
    ENVIRONMENTS,
    GENRES,
    LANGUAGES,
    LEVELS,
    NAMES,
    PRODUCTS,
    SERVICES,
    UNITS,
)


@dataclass(frozen=True, slots=True)
class Slot:
    """One parameter: the names it may carry and the values it may take."""

    names: tuple[str, ...]
    values: Sequence[str | int]

    @property
    def kind(self) -> str:
        """Return the JSON schema type of the values."""
        return "integer" if isinstance(self.values[0], int) else "string"


@dataclass(frozen=True, slots=True)
class Intent:
    """One thing a user may want: tool names, parameters, and requests with a numbered hole per parameter."""

    names: tuple[str, ...]
    description: str
    slots: tuple[Slot, ...]
    requests: tuple[str, ...]
    reply: str | None = None  # how to report a numeric result; the hole after the parameters holds it


INTENTS = (
    Intent(
        ("get_weather", "weather_lookup"),
        "Current weather in a city",
        (Slot(("city", "location"), CITIES), Slot(("unit", "units"), UNITS)),
        ("What is the weather in {0} in {1}?", "Weather for {0}, {1} please.", "How warm is it in {0} in {1}?"),
        "It is {2} degrees {1} in {0}.",
    ),
    Intent(
        ("get_temperature", "read_temperature"),
        "Temperature in a city",
        (Slot(("city", "location"), CITIES),),
        ("What is the temperature in {0}?", "How warm is {0} today?", "What is the weather in {0}?"),
        "It is {1} degrees in {0}.",
    ),
    Intent(
        ("book_train", "reserve_train"),
        "Book a train seat",
        (Slot(("origin", "start"), CITIES), Slot(("destination", "target"), CITIES),
         Slot(("day", "date"), DAYS)),
        ("Book a train from {0} to {1} on {2}.", "I need a train from {0} to {1} for {2}."),
    ),
    Intent(
        ("add_to_cart", "order_product"),
        "Add a product to the cart",
        (Slot(("product", "item"), PRODUCTS), Slot(("color", "colour"), COLORS),
         Slot(("quantity", "count"), range(2, 60))),
        ("Order {2} {1} {0}s.", "Add {2} {1} {0}s to the cart.", "Please buy {2} {1} {0}s."),
    ),
    Intent(
        ("scale_service", "set_replicas"),
        "Change the number of replicas",
        (Slot(("service", "name"), SERVICES), Slot(("replicas", "size"), range(1, 40))),
        ("Scale {0} to {1} replicas.", "Set the {0} service to {1} replicas."),
    ),
    Intent(
        ("open_incident", "report_incident"),
        "Open an incident",
        (Slot(("service", "component"), SERVICES), Slot(("severity", "level"), LEVELS)),
        ("Open a {1} incident for {0}.", "Create an incident on {0} with severity {1}."),
    ),
    Intent(
        ("set_alarm", "create_alarm"),
        "Set an alarm",
        (Slot(("day", "date"), DAYS), Slot(("hour", "time"), range(24))),
        ("Set an alarm for {0} at {1}.", "Wake me on {0} at {1}."),
    ),
    Intent(
        ("track_order", "find_order"),
        "Where an order is",
        (Slot(("order_id", "id"), range(100, 1000)),),
        ("Where is order {0}?", "Track order {0}.", "Show the status of order {0}."),
        "Order {0} arrives in {1} days.",
    ),
    Intent(
        ("convert_currency", "exchange_money"),
        "Convert money",
        (Slot(("amount", "value"), range(5, 500)), Slot(("source", "from_currency"), CURRENCIES),
         Slot(("target", "to_currency"), CURRENCIES)),
        ("Convert {0} {1} to {2}.", "How much is {0} {1} in {2}?"),
        "{0} {1} are {3} {2}.",
    ),
    Intent(
        ("send_message", "notify"),
        "Send a message",
        (Slot(("recipient", "person"), NAMES), Slot(("subject", "topic"), SERVICES)),
        ("Send {0} a message about {1}.", "Tell {0} about {1}."),
    ),
    Intent(
        ("play_music", "start_music"),
        "Play music",
        (Slot(("genre", "style"), GENRES), Slot(("minutes", "duration"), range(5, 90))),
        ("Play {0} for {1} minutes.", "I want to hear {1} minutes of {0}."),
    ),
    Intent(
        ("set_language", "change_language"),
        "Change the language",
        (Slot(("language", "lang"), LANGUAGES),),
        ("Switch the language to {0}.", "Please use {0} from now on."),
    ),
    Intent(
        ("deploy", "release_service"),
        "Deploy a version",
        (Slot(("service", "app"), SERVICES), Slot(("environment", "env"), ENVIRONMENTS),
         Slot(("version", "build"), range(10, 100))),
        ("Deploy {0} version {2} to {1}.", "Release build {2} of {0} to {1}."),
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Offer:
    """One intent with the spellings and the values drawn for one conversation."""

    intent: Intent
    name: str
    fields: tuple[str, ...]
    values: tuple[str | int, ...]

    @classmethod
    def draw(cls, rng: Random, intent: Intent) -> "Offer":
        """Draw spellings and values; two values from the same list differ."""
        fields = tuple(rng.choice(slot.names) for slot in intent.slots)
        values: list[str | int] = []
        for slot in intent.slots:
            values.append(rng.choice([value for value in slot.values if value not in values]))
        return cls(intent, rng.choice(intent.names), fields, tuple(values))

    @property
    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the right call."""
        return dict(zip(self.fields, self.values, strict=True))

    def request(self, rng: Random) -> str:
        """Return a user's words for it."""
        return rng.choice(self.intent.requests).format(*self.values)

    def tool(self) -> Tool:
        """Return the tool in the form that chat-completion clients send."""
        kinds = (slot.kind for slot in self.intent.slots)
        parameters = {
            "type": "object",
            "properties": {field: {"type": kind} for field, kind in zip(self.fields, kinds, strict=True)},
            "required": list(self.fields),
        }
        function = {"name": self.name, "description": self.intent.description, "parameters": parameters}
        return {"type": "function", "function": function}
