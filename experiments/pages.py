"""Pages of docs/ whose tables are written by a program, between marks."""


def write_sections(page, sections):
    """Replaces what stands between the marks of names in a page.

    Args:
      page: its path; made where it is not there.
      sections: dict from names to texts.
    """
    text = page.read_text() if page.exists() else ""
    for name, content in sections.items():
        text = with_section(text, name, content)
    page.write_text(text)


def with_section(text, name, content):
    """A page's text with what stands between the marks of a name replaced.

    A section that is not there is added at the end.
    """
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    before, mark, rest = text.partition(begin)
    after = rest.partition(end)[2]
    separator = "" if mark or not text else "\n"
    return f"{before}{separator}{begin}{content}{end}{after}"
