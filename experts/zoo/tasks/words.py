"""Closed word lists that the tasks draw values from; the tokenizer keeps each word as one token."""

NAMES = ("Ana", "Ben", "Carla", "David", "Elena", "Felix", "Greta", "Hugo", "Laura", "Marco")
CITIES = ("Paris", "London", "Berlin", "Madrid", "Rome", "Lisbon", "Vienna", "Oslo", "Tokyo", "Cairo")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
PRODUCTS = ("lamp", "chair", "table", "phone", "camera", "printer", "bottle", "jacket")
COLORS = ("red", "blue", "green", "black", "white", "yellow")
SERVICES = ("billing", "search", "login", "checkout", "gateway", "mailer")
ENVIRONMENTS = ("staging", "production", "testing")
LEVELS = ("low", "medium", "high", "critical")
CURRENCIES = ("EUR", "USD", "GBP", "CHF")
LANGUAGES = ("English", "French", "German", "Spanish", "Italian", "Portuguese")
UNITS = ("celsius", "fahrenheit")
GENRES = ("jazz", "rock", "soul", "folk")
PLACES = ("library", "station", "museum", "office", "market", "clinic", "school", "bakery")
ITEMS = ("apples", "pens", "boxes", "tickets", "coins", "books")

VALUES = (
    *NAMES, *CITIES, *DAYS, *PRODUCTS, *COLORS, *SERVICES, *ENVIRONMENTS, *LEVELS, *CURRENCIES, *LANGUAGES, *UNITS,
    *GENRES, *PLACES, *ITEMS,
)  # fmt: skip
