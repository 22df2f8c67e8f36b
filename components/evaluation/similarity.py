"""How alike two strings are."""


def edit_distance(a: str, b: str) -> int:
    """Levenshtein distance: least number of insertions, deletions and substitutions of characters.

    Bit-parallel over one column of the table held in one integer (Myers 1999, in Hyyrö's form): the bits of
    `up` and `down` say where the column rises and falls by one.
    """
    if not a or not b:
        return len(a) + len(b)
    everything, last = (1 << len(a)) - 1, 1 << (len(a) - 1)
    places: dict[str, int] = {}
    for i, character in enumerate(a):
        places[character] = places.get(character, 0) | 1 << i
    up, down, distance = everything, 0, len(a)
    for character in b:
        equal = places.get(character, 0)
        diagonal = (((equal & up) + up) ^ up) | equal | down
        right_up = down | ~(diagonal | up) & everything
        right_down = up & diagonal
        distance += bool(right_up & last) - bool(right_down & last)
        right_up, right_down = right_up << 1 | 1, right_down << 1
        up = (right_down | ~(equal | down | right_up)) & everything
        down = right_up & (equal | down) & everything
    return distance


def edit_similarity(a: str, b: str) -> float:
    """1 - distance / length of the longer string, in [0, 1]; 1 for two empty strings."""
    longer = max(len(a), len(b))
    return 1.0 - edit_distance(a, b) / longer if longer else 1.0
