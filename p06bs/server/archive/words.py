"""Full text searches as the databases take them."""

from p06bs.server.tree.words import Search, Term


def to_tsquery(search: Search) -> str:
    """Return the search as PostgreSQL's ``to_tsquery`` takes it."""

    def one(term: Term) -> str:
        quoted = term.text.replace("\\", "\\\\").replace("'", "''")
        return f"{'!' if term.absent else ''}'{quoted}'{':*' if term.begins else ''}"

    return " | ".join(f"({' & '.join(map(one, terms))})" for terms in search)


def to_fts5(search: Search) -> str:
    """Return the search as SQLite's FTS5 takes it."""

    def one(term: Term) -> str:
        quoted = term.text.replace('"', '""')
        return f'"{quoted}"{"*" if term.begins else ""}'

    alternatives = []
    for terms in search:
        there = " AND ".join(one(term) for term in terms if not term.absent)
        absent = "".join(f" NOT {one(term)}" for term in terms if term.absent)
        alternatives.append(f"(({there}){absent})")
    return " OR ".join(alternatives)
