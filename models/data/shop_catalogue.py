"""The words of the sample shop: 24 topics with the things sold in them, and 4 styles a thing can come in.

Each thing has a phrase that says what it is for, so that a text of two sentences already tells a sentence encoder which
topic an item belongs to. The things of a topic stand in the order in which a shopper tends to need them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Thing:
    """A kind of product: the noun of its title, what it is for, and its ordinary price in euros."""

    noun: str
    purpose: str
    price: float


@dataclass(frozen=True)
class Topic:
    """A latent interest: what its shoppers do (`scene`) and what they buy, in the usual order."""

    category: str
    name: str
    scene: str
    things: tuple[Thing, ...]


@dataclass(frozen=True)
class Style:
    """How a product is made; shoppers keep to a style across topics."""

    name: str
    adjectives: tuple[str, ...]
    sentence: str
    price_factor: float


def _topic(category: str, name: str, scene: str, *things: tuple[str, str, float]) -> Topic:
    return Topic(category, name, scene, tuple(Thing(*thing) for thing in things))


STYLES: Final = (
    Style("budget", ("Basic", "Everyday", "Starter", "Value", "Simple"), "Honest quality at a low price.", 0.6),
    Style(
        "premium",
        ("Pro", "Signature", "Master", "Elite", "Reserve"),
        "Made without compromise, for the demanding.",
        2.2,
    ),
    Style(
        "green",
        ("Renewed", "Natural", "Planet", "Recycled", "Evergreen"),
        "Made of recycled or renewable material.",
        1.2,
    ),
    Style(
        "compact", ("Compact", "Mini", "Pocket", "Slim", "Lightweight"), "Small and light enough to take anywhere.", 1.0
    ),
)

BRANDS: Final = (
    "Alderwick", "Brightmoor", "Calder & Finch", "Dunmere", "Eastfold", "Fernhill", "Greyling", "Harrowgate",
    "Inverloch", "Juniper Row", "Kestrel", "Larkfield", "Mosswood", "Northlake", "Oakham", "Pinecrest",
    "Quarry Lane", "Ravensbury", "Silverbeck", "Thornfield", "Umberlow", "Valemont", "Westbrook", "Yarrow",
)  # fmt: skip

TOPICS: Final = (
    _topic(
        "Outdoor", "Camping", "For nights under the stars at a quiet campsite.",
        ("Two-Person Tent", "pitches in minutes and keeps rain and wind out", 120),
        ("Sleeping Bag", "keeps you warm when the night turns cold", 70),
        ("Camping Stove", "boils water for tea beside the tent", 45),
        ("Headlamp", "lights the way back to the campfire", 30),
        ("Camping Chair", "gives you a seat around the fire", 35),
    ),
    _topic(
        "Outdoor", "Mountain Hiking", "For long trails, steep ridges and summits.",
        ("Hiking Boots", "grip wet rock and support the ankle", 140),
        ("Hiking Backpack", "carries a day's supplies up the mountain", 90),
        ("Trekking Poles", "take the load off your knees on the way down", 55),
        ("Rain Jacket", "sheds a sudden downpour on the ridge", 110),
        ("Trail Map Set", "shows footpaths, huts and contour lines", 25),
    ),
    _topic(
        "Outdoor", "Fishing", "For patient mornings at the lake or the river bank.",
        ("Fishing Rod", "casts far and bends gently under a trout", 80),
        ("Fishing Reel", "winds the line smoothly and holds a big fish", 65),
        ("Tackle Box", "sorts hooks, lures and floats", 30),
        ("Fishing Waders", "keep you dry while you stand in the stream", 95),
        ("Landing Net", "lifts the catch from the water unharmed", 28),
    ),
    _topic(
        "Sports", "Running", "For runners, from the first five kilometres to a marathon.",
        ("Running Shoes", "cushion every stride on the road", 110),
        ("Running Watch", "measures pace, distance and heart rate", 160),
        ("Running Shorts", "stay light and dry on a fast run", 35),
        ("Running Belt", "holds keys and energy gels without bouncing", 22),
        ("Compression Socks", "help tired calves recover after a race", 24),
    ),
    _topic(
        "Sports", "Cycling", "For riders on country roads and the daily commute.",
        ("Bicycle Helmet", "protects the head and lets air through", 75),
        ("Bicycle Light Set", "makes the bike visible after dark", 40),
        ("Cycling Gloves", "pad the palms on rough roads", 28),
        ("Bicycle Pump", "brings tyres back to pressure at the roadside", 26),
        ("Bicycle Lock", "keeps the bike where you parked it", 48),
    ),
    _topic(
        "Sports", "Yoga", "For calm breathing, stretching and balance at home or in class.",
        ("Yoga Mat", "gives grip and cushion for every pose", 45),
        ("Yoga Block", "supports the hands in a deep stretch", 16),
        ("Yoga Strap", "helps you reach further without strain", 12),
        ("Meditation Cushion", "lifts the hips for a long seated meditation", 38),
        ("Foam Roller", "loosens tight muscles after practice", 27),
    ),
    _topic(
        "Kitchen", "Coffee", "For people who want café coffee at home.",
        ("Espresso Machine", "pulls a rich espresso with a thick crema", 320),
        ("Coffee Grinder", "grinds fresh beans evenly, from espresso to filter", 90),
        ("Milk Frother", "foams milk for cappuccino and latte", 35),
        ("Pour-Over Dripper", "brews a clear cup of filter coffee by hand", 24),
        ("Roasted Coffee Beans", "taste of chocolate and hazelnut", 15),
    ),
    _topic(
        "Kitchen", "Baking", "For the smell of fresh bread and cake on a Sunday.",
        ("Stand Mixer", "kneads bread dough and whips cream", 220),
        ("Springform Cake Tin", "releases a cake without breaking it", 20),
        ("Bread Proofing Basket", "shapes a sourdough loaf while it rises", 22),
        ("Rolling Pin", "rolls pastry to an even thickness", 16),
        ("Icing Nozzle Set", "decorates cupcakes with buttercream", 18),
    ),
    _topic(
        "Kitchen", "Asian Cooking", "For fast stir-fries, dumplings and bowls of noodles.",
        ("Carbon Steel Wok", "sears vegetables over a high flame", 48),
        ("Bamboo Steamer", "steams dumplings and buns in two layers", 25),
        ("Rice Cooker", "cooks fluffy rice and keeps it warm", 60),
        ("Chef's Cleaver", "slices meat and chops vegetables finely", 55),
        ("Ramen Bowl Set", "holds broth, noodles and toppings for two", 30),
    ),
    _topic(
        "Home", "Gardening", "For raised beds, balconies and a harvest of your own.",
        ("Pruning Shears", "cut roses and small branches cleanly", 28),
        ("Raised Garden Bed", "grows vegetables at a comfortable height", 85),
        ("Vegetable Seed Set", "brings tomatoes, carrots and beans to the garden", 14),
        ("Watering Can", "waters seedlings with a soft shower", 24),
        ("Gardening Gloves", "protect the hands from thorns and soil", 13),
    ),
    _topic(
        "Home", "Houseplants", "For a green living room all year round.",
        ("Ceramic Plant Pot", "gives a monstera or a fern room to root", 26),
        ("Indoor Plant Mix", "drains well and feeds tropical plants", 12),
        ("Plant Mister", "keeps leaves humid in dry heated rooms", 15),
        ("Grow Light", "replaces the sun for plants on a dark shelf", 42),
        ("Plant Hanger", "hangs a trailing plant by the window", 18),
    ),
    _topic(
        "Home", "Home Repair", "For fixing, drilling and building things around the house.",
        ("Cordless Drill", "drills and drives screws into wood and wall", 95),
        ("Screwdriver Set", "fits every screw in the toolbox", 24),
        ("Claw Hammer", "drives nails and pulls them out again", 20),
        ("Spirit Level", "hangs shelves perfectly straight", 18),
        ("Tool Box", "keeps wrenches, pliers and bits in order", 45),
    ),
    _topic(
        "Electronics", "Photography", "For photographers chasing light, portraits and landscapes.",
        ("Mirrorless Camera", "takes sharp photographs even in low light", 780),
        ("Portrait Lens", "blurs the background behind a face", 390),
        ("Camera Tripod", "holds the camera still for long exposures", 95),
        ("Camera Bag", "protects camera bodies and lenses on the road", 70),
        ("Lens Cleaning Kit", "removes dust and fingerprints from glass", 16),
    ),
    _topic(
        "Electronics", "PC Gaming", "For long evenings of ranked matches and open worlds.",
        ("Gaming Mouse", "tracks every flick with a precise sensor", 60),
        ("Mechanical Keyboard", "clicks fast and lights up in colour", 105),
        ("Gaming Headset", "lets you hear footsteps and talk to your team", 85),
        ("Gaming Monitor", "shows fast action at a high refresh rate", 310),
        ("Gaming Chair", "supports the back through a long session", 230),
    ),
    _topic(
        "Electronics", "Home Audio", "For listening to albums the way they were recorded.",
        ("Bookshelf Speakers", "fill a room with clear, warm sound", 240),
        ("Turntable", "plays vinyl records with a steady belt drive", 210),
        ("Stereo Amplifier", "drives loudspeakers with clean power", 280),
        ("Studio Headphones", "reveal every detail of a recording", 130),
        ("Speaker Cable", "connects amplifier and loudspeakers", 20),
    ),
    _topic(
        "Hobbies", "Painting", "For painters, from a first sketch to a finished canvas.",
        ("Watercolour Set", "mixes bright washes of colour on paper", 32),
        ("Acrylic Paint Set", "covers canvas with strong, quick-drying colour", 36),
        ("Paint Brush Set", "has a round, a flat and a fine detail brush", 20),
        ("Stretched Canvas", "is primed and ready for oil or acrylic", 17),
        ("Tabletop Easel", "holds the painting at the right angle", 40),
    ),
    _topic(
        "Hobbies", "Knitting", "For wool, needles and a winter of warm scarves.",
        ("Knitting Needle Set", "glides through yarn without snagging", 30),
        ("Merino Yarn", "knits into soft sweaters and hats", 11),
        ("Crochet Hook Set", "makes blankets and small stuffed animals", 18),
        ("Knitting Pattern Book", "explains stitches for socks, scarves and cardigans", 21),
        ("Yarn Bowl", "keeps the ball of wool from rolling away", 26),
    ),
    _topic(
        "Hobbies", "Board Games", "For a table of friends, dice and cards.",
        ("Strategy Board Game", "lets you trade, build and outwit your neighbours", 48),
        ("Cooperative Board Game", "pits all players together against the game", 42),
        ("Party Card Game", "makes a room laugh in fifteen minutes", 20),
        ("Wooden Chess Set", "has weighted pieces and a folding board", 52),
        ("Dice Set", "rolls for every role-playing adventure", 12),
    ),
    _topic(
        "Beauty", "Skin Care", "For a calm morning and evening routine for the face.",
        ("Facial Cleanser", "washes make-up away without drying the skin", 18),
        ("Moisturising Cream", "keeps dry skin soft all day", 26),
        ("Vitamin C Serum", "brightens a dull, tired complexion", 34),
        ("Sunscreen Lotion", "shields the skin from ultraviolet light", 20),
        ("Clay Face Mask", "draws oil and dirt out of pores", 15),
    ),
    _topic(
        "Beauty", "Hair Care", "For shiny, healthy hair after every wash.",
        ("Repair Shampoo", "cleans and strengthens damaged hair", 14),
        ("Hair Conditioner", "detangles long and curly hair", 14),
        ("Hair Dryer", "dries hair quickly without overheating it", 65),
        ("Argan Hair Oil", "tames frizz and seals split ends", 22),
        ("Detangling Brush", "glides through wet knots without pulling", 13),
    ),
    _topic(
        "Beauty", "Make-Up", "For a natural day look or a bold evening.",
        ("Matte Lipstick", "gives the lips lasting, even colour", 19),
        ("Volume Mascara", "lifts and darkens the eyelashes", 17),
        ("Eyeshadow Palette", "blends twelve warm shades on the lids", 32),
        ("Liquid Foundation", "evens the skin tone with light coverage", 29),
        ("Make-Up Brush Set", "blends powder, blush and contour", 36),
    ),
    _topic(
        "Family", "Baby", "For the first year with a newborn.",
        ("Baby Carrier", "keeps an infant close and your hands free", 95),
        ("Baby Monitor", "lets you hear the nursery from the kitchen", 85),
        ("Nursing Pillow", "supports mother and baby while feeding", 38),
        ("Baby Bottle Set", "feeds milk slowly and prevents colic", 24),
        ("Muslin Swaddle", "wraps a newborn for a calm sleep", 19),
    ),
    _topic(
        "Family", "Building Toys", "For children who take things apart and put them together.",
        ("Wooden Building Blocks", "stack into towers, bridges and castles", 30),
        ("Marble Run", "sends marbles through loops and tunnels", 44),
        ("Magnetic Tiles", "click into houses and rockets", 50),
        ("Model Train Set", "runs a locomotive around the carpet", 75),
        ("Junior Science Kit", "grows crystals and erupts a volcano", 33),
    ),
    _topic(
        "Family", "Dogs", "For happy dogs, long walks and clean sofas.",
        ("Dog Bed", "gives an old dog a soft place to sleep", 55),
        ("Dog Harness", "stops pulling on the leash without choking", 30),
        ("Dog Leash", "holds a strong dog on a walk in town", 18),
        ("Chew Toy", "keeps a puppy away from your shoes", 11),
        ("Dry Dog Food", "feeds an active dog with chicken and rice", 42),
    ),
)  # fmt: skip
