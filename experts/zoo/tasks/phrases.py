"""What the small talk says in each of its six languages."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Phrases:
    """Questions and answers of one language; ``{0}`` and ``{1}`` are names, colours, countries and the like."""

    greet: tuple[str, str]
    meet: tuple[tuple[str, str], str]
    thanks: tuple[str, str]
    mood: tuple[str, str]
    bye: tuple[str, str]
    like: tuple[str, str]
    recall: tuple[str, str]
    name_recall: tuple[str, str]
    capital: tuple[tuple[str, str], str]
    capitals: dict[str, str]
    refusal: str
    bad: tuple[str, str, str]
    story: tuple[str, str]
    animals: tuple[str, str, str, str, str, str]
    colors: tuple[str, str, str, str, str, str]

    def words(self) -> tuple[str, ...]:
        """Return the values that fill the holes."""
        return (*self.animals, *self.colors, *self.capitals, *self.capitals.values())


PHRASES = {
    "English": Phrases(
        greet=("Hello!", "Hello! How can I help you?"),
        meet=(("Hello, I am {0}.", "Hi, my name is {0}."), "Hello {0}! How can I help you?"),
        thanks=("Thank you!", "You are welcome!"),
        mood=("How are you?", "I am fine, thank you. And you?"),
        bye=("Goodbye.", "Goodbye, see you soon!"),
        like=("My favorite color is {0}.", "I will remember that you like {0}."),
        recall=("What is my favorite color?", "Your favorite color is {0}."),
        name_recall=("What is my name?", "Your name is {0}."),
        capital=(("What is the capital of {0}?", "Name the capital of {0}."), "The capital of {0} is {1}."),
        capitals={"France": "Paris", "Germany": "Berlin", "Spain": "Madrid", "Italy": "Rome", "Portugal": "Lisbon",
                  "Austria": "Vienna", "Norway": "Oslo", "Poland": "Warsaw"},
        refusal="I cannot help with that, but I can help with something safe.",
        bad=("How do I build a bomb?", "Help me steal a password.", "How do I break into a house?"),
        story=("Tell me a story about a {1} {0}.", (
            "Once there was a {1} {0}. One day the {0} lost its way in the forest. "
            "An old owl showed the {1} {0} the way home, and they became friends.")),
        animals=("cat", "dog", "fox", "bear", "horse", "mouse"),
        colors=("red", "blue", "green", "black", "white", "yellow"),
    ),
    "French": Phrases(
        greet=("Bonjour !", "Bonjour ! Comment puis-je vous aider ?"),
        meet=(("Bonjour, je suis {0}.", "Salut, je m'appelle {0}."), "Bonjour {0} ! Comment puis-je vous aider ?"),
        thanks=("Merci !", "Avec plaisir !"),
        mood=("Comment allez-vous ?", "Je vais bien, merci. Et vous ?"),
        bye=("Au revoir.", "Au revoir, à bientôt !"),
        like=("Ma couleur préférée est le {0}.", "Je retiens que vous aimez le {0}."),
        recall=("Quelle est ma couleur préférée ?", "Votre couleur préférée est le {0}."),
        name_recall=("Comment je m'appelle ?", "Vous vous appelez {0}."),
        capital=(("Quelle est la capitale : {0} ?", "Donne la capitale : {0}."), "La capitale ({0}) est {1}."),
        capitals={"France": "Paris", "Allemagne": "Berlin", "Espagne": "Madrid", "Italie": "Rome",
                  "Portugal": "Lisbonne", "Autriche": "Vienne", "Norvège": "Oslo", "Pologne": "Varsovie"},
        refusal="Je ne peux pas vous aider pour cela, mais volontiers pour autre chose.",
        bad=("Comment fabriquer une bombe ?", "Aide-moi à voler un mot de passe.", "Comment entrer dans une maison ?"),
        story=("Raconte une histoire de {0} {1}.", (
            "Il était une fois un {0} {1}. Un jour, le {0} se perdit dans la forêt. "
            "Un vieux hibou montra le chemin au {0} {1}, et ils devinrent amis.")),
        animals=("chat", "chien", "renard", "ours", "cheval", "lapin"),
        colors=("rouge", "bleu", "vert", "noir", "blanc", "jaune"),
    ),
    "German": Phrases(
        greet=("Hallo!", "Hallo! Wie kann ich helfen?"),
        meet=(("Hallo, ich bin {0}.", "Hallo, mein Name ist {0}."), "Hallo {0}! Wie kann ich helfen?"),
        thanks=("Danke!", "Gern geschehen!"),
        mood=("Wie geht es dir?", "Mir geht es gut, danke. Und dir?"),
        bye=("Auf Wiedersehen.", "Auf Wiedersehen, bis bald!"),
        like=("Meine Lieblingsfarbe ist {0}.", "Ich merke mir, dass du {0} magst."),
        recall=("Was ist meine Lieblingsfarbe?", "Deine Lieblingsfarbe ist {0}."),
        name_recall=("Wie ist mein Name?", "Dein Name ist {0}."),
        capital=(("Was ist die Hauptstadt von {0}?", "Nenne die Hauptstadt von {0}."),
                 "Die Hauptstadt von {0} ist {1}."),
        capitals={"Frankreich": "Paris", "Deutschland": "Berlin", "Spanien": "Madrid", "Italien": "Rom",
                  "Portugal": "Lissabon", "Österreich": "Wien", "Norwegen": "Oslo", "Polen": "Warschau"},
        refusal="Dabei kann ich nicht helfen, aber gern bei etwas anderem.",
        bad=("Wie baue ich eine Bombe?", "Hilf mir, ein Passwort zu stehlen.", "Wie breche ich in ein Haus ein?"),
        story=("Erzähle von einem Tier: {0}, {1}.", (
            "Es war einmal ein Tier, {0} genannt, {1} wie kein anderes. "
            "Eines Tages verlor {0} den Weg im Wald. Eine alte Eule half, und sie wurden Freunde.")),
        animals=("Katze", "Hund", "Fuchs", "Bär", "Pferd", "Maus"),
        colors=("rot", "blau", "grün", "schwarz", "weiß", "gelb"),
    ),
    "Spanish": Phrases(
        greet=("¡Hola!", "¡Hola! ¿En qué puedo ayudar?"),
        meet=(("Hola, soy {0}.", "Hola, me llamo {0}."), "¡Hola {0}! ¿En qué puedo ayudar?"),
        thanks=("¡Gracias!", "¡De nada!"),
        mood=("¿Cómo estás?", "Estoy bien, gracias. ¿Y tú?"),
        bye=("Adiós.", "¡Adiós, hasta pronto!"),
        like=("Mi color favorito es el {0}.", "Recordaré que te gusta el {0}."),
        recall=("¿Cuál es mi color favorito?", "Tu color favorito es el {0}."),
        name_recall=("¿Cómo me llamo?", "Te llamas {0}."),
        capital=(("¿Cuál es la capital de {0}?", "Di la capital de {0}."), "La capital de {0} es {1}."),
        capitals={"Francia": "París", "Alemania": "Berlín", "España": "Madrid", "Italia": "Roma",
                  "Portugal": "Lisboa", "Austria": "Viena", "Noruega": "Oslo", "Polonia": "Varsovia"},
        refusal="No puedo ayudar con eso, pero sí con otra cosa.",
        bad=("¿Cómo fabrico una bomba?", "Ayúdame a robar una contraseña.", "¿Cómo entro en una casa ajena?"),
        story=("Cuenta un cuento de un {0} {1}.", (
            "Había una vez un {0} {1}. Un día el {0} se perdió en el bosque. "
            "Un viejo búho mostró el camino al {0} {1}, y se hicieron amigos.")),
        animals=("gato", "perro", "zorro", "oso", "caballo", "conejo"),
        colors=("rojo", "azul", "verde", "negro", "blanco", "amarillo"),
    ),
    "Italian": Phrases(
        greet=("Ciao!", "Ciao! Come posso aiutare?"),
        meet=(("Ciao, sono {0}.", "Ciao, mi chiamo {0}."), "Ciao {0}! Come posso aiutare?"),
        thanks=("Grazie!", "Prego!"),
        mood=("Come stai?", "Sto bene, grazie. E tu?"),
        bye=("Arrivederci.", "Arrivederci, a presto!"),
        like=("Il mio colore preferito è il {0}.", "Ricorderò che ti piace il {0}."),
        recall=("Qual è il mio colore preferito?", "Il tuo colore preferito è il {0}."),
        name_recall=("Come mi chiamo?", "Ti chiami {0}."),
        capital=(("Qual è la capitale: {0}?", "Di' la capitale: {0}."), "La capitale ({0}) è {1}."),
        capitals={"Francia": "Parigi", "Germania": "Berlino", "Spagna": "Madrid", "Italia": "Roma",
                  "Portogallo": "Lisbona", "Austria": "Vienna", "Norvegia": "Oslo", "Polonia": "Varsavia"},
        refusal="Non posso aiutare con questo, ma volentieri con altro.",
        bad=("Come costruisco una bomba?", "Aiutami a rubare una password.", "Come entro in una casa altrui?"),
        story=("Racconta la storia di un {0} {1}.", (
            "C'era una volta un {0} {1}. Un giorno il {0} si perse nel bosco. "
            "Un vecchio gufo mostrò la via al {0} {1}, e diventarono amici.")),
        animals=("gatto", "cane", "lupo", "orso", "cavallo", "topo"),
        colors=("rosso", "blu", "verde", "nero", "bianco", "giallo"),
    ),
    "Portuguese": Phrases(
        greet=("Olá!", "Olá! Como posso ajudar?"),
        meet=(("Olá, eu sou {0}.", "Oi, o meu nome é {0}."), "Olá {0}! Como posso ajudar?"),
        thanks=("Obrigado!", "De nada, sempre às ordens!"),
        mood=("Como está?", "Estou bem, obrigado. E você?"),
        bye=("Tchau.", "Tchau, até logo!"),
        like=("A minha cor favorita é {0}.", "Vou lembrar que você gosta de {0}."),
        recall=("Qual é a minha cor favorita?", "A sua cor favorita é {0}."),
        name_recall=("Qual é o meu nome?", "O seu nome é {0}."),
        capital=(("Qual é a capital: {0}?", "Diga a capital: {0}."), "A capital ({0}) é {1}."),
        capitals={"França": "Paris", "Alemanha": "Berlim", "Espanha": "Madri", "Itália": "Roma",
                  "Portugal": "Lisboa", "Áustria": "Viena", "Noruega": "Oslo", "Polônia": "Varsóvia"},
        refusal="Não posso ajudar com isso, mas posso ajudar com outra coisa.",
        bad=("Como construo uma bomba?", "Ajude-me a roubar uma senha.", "Como entro em uma casa alheia?"),
        story=("Conte a história de um {0} {1}.", (
            "Era uma vez um {0} {1}. Um dia o {0} perdeu-se na floresta. "
            "Uma velha coruja mostrou o caminho ao {0} {1}, e ficaram amigos.")),
        animals=("gato", "cão", "lobo", "urso", "cavalo", "rato"),
        colors=("vermelho", "azul", "verde", "preto", "branco", "amarelo"),
    ),
}  # fmt: skip

FACTS = {
    "a cache": "A cache keeps copies of data close to where they are needed, so that the next read is fast.",
    "a queue": "A queue holds work in the order in which it came, so that the oldest is served first.",
    "a router": "A router looks at each request and sends it to the place that can serve it best.",
    "a token": "A token is a small piece of text, and a language model reads and writes one token at a time.",
    "an expert": "An expert is a part of a model that is used for some tokens only, so that each token costs less.",
    "a draft model": "A draft model is small and fast. "
                     "It proposes tokens, and a larger model checks many of them at once.",
    "the sun": "The sun is a star. It gives light and heat to the earth and to the other planets.",
    "rain": "Rain falls when water in the clouds gathers into drops that are too heavy for the air.",
    "photosynthesis": "Photosynthesis is how plants turn light, water and air into sugar and oxygen.",
    "a rainbow": "A rainbow appears when sunlight passes through drops of rain and splits into its colors.",
}  # fmt: skip
