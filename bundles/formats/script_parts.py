"""What the scripts of two formats have in common: how they prepare a row's text, without promptgraft."""

# Part of a script; needs its `re`, `unicodedata` and `PROMPT`.
TEXTS = '''def as_data(text):
    """Break up the names of special tokens in a row's text."""
    if not PROMPT["special"]:
        return text  # The tokenizer doesn't look for them.
    names = sorted(PROMPT["special"], key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, names)), re.IGNORECASE)
    text = pattern.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
    normal = unicodedata.normalize("NFKC", text)
    return as_data(normal) if pattern.search(normal) else text


def shortened(fields, ends, excess):
    """Cut the longest text; `ends` has, for each field, where in its text each token ends."""
    longest = max(ends, key=lambda name: len(ends[name]))
    kept = len(ends[longest]) - excess if excess < len(ends[longest]) else len(ends[longest]) // 2
    end = ends[longest][kept - 1] if kept else 0
    if end == len(fields[longest]):
        end = max((place for place in ends[longest] if place < end), default=0)
    if not end:
        raise ValueError(f"there is no room for {longest}")
    return fields | {longest: fields[longest][:end]}
'''
