"""Of documentation only the paragraphs of prose are kept, without their markup."""

import pytest

from training.prose import html_paragraphs, pod_paragraphs


@pytest.mark.parametrize(
    ("html", "paragraphs"),
    [
        ("<h1>Title</h1><p>One\n  <em>two</em>&nbsp;&amp; three.</p>loose", ["One two & three."]),
        ("<p>Before:</p><pre>code <b>x</b></pre><p>after.</p>", ["Before:", "after."]),
        ("<p>Inside: <pre>code</pre> and on.</p>", ["Inside: and on."]),
        (
            "<table><tr><td><table></table><p>cell</p></td></tr></table><p>After.</p>",
            ["After."],
        ),
        ('<p class="topless">Next topic</p><p>Prose.</p>', ["Prose."]),
        (
            '<p>A claim.<a class="footnote" href="#1"><sup>[1]</sup></a> Next.</p>',
            ["A claim. Next."],
        ),
        ("<p></p><p> \n </p>", []),
    ],
    ids=["markup", "code", "code inside", "table", "label", "footnote", "empty"],
)
def test_of_html_the_text_of_paragraphs_is_kept(html: str, paragraphs: list[str]) -> None:
    assert html_paragraphs(html) == paragraphs


@pytest.mark.parametrize(
    ("pod", "text"),
    [
        ("Use C<print> with B<I<care>>.", "Use print with care."),
        ("(C<< $a -> b >>) or C<<< x << 1 >>> or C<$a-E<gt>b>", "($a -> b) or x << 1 or $a->b"),
        ("E<lt>E<gt>E<sol>E<verbar>E<eacute>E<233>E<0xE9>E<0351>", "<>/|éééé"),
        ("See L<the manual|perlop/Quote>, L<perlsub>", "See the manual, perlsub"),
        ('L<perlop/"Quote Ops">, L</Terms>', '"Quote Ops" in perlop, Terms'),
        ("L<https://perl.org/a/b>, L<C<Foo::Bar>>", "https://perl.org/a/b, Foo::Bar"),
        ("An index entryX<index> and nothingZ<>", "An index entry and nothing"),
        ("F<a\nb> 1 < 2, F<<sys/ipc.h>>", "a b 1 < 2, <sys/ipc.h>"),
        ("left C<open", "left open"),
    ],
)
def test_pod_markup_is_resolved(pod: str, text: str) -> None:
    assert pod_paragraphs(f"=pod\n\n{pod}") == [text]


def test_of_pod_only_ordinary_paragraphs_are_kept() -> None:
    page = """#!perl, before the first command

=head1 NAME

perlfoo - a name

=head1 DESCRIPTION

First line
and second.

  verbatim();

=over 4

=item * a label

An item's text.

=back
directly after

=for comment hidden

Still here.

=begin html

<p>hidden</p>

=end html
\x20
Shown again.

=head1 AUTHOR AND COPYRIGHT

Somebody.

=head1 License

Free.

=head2 Afterword

A last word.

=cut

code();
"""
    assert pod_paragraphs(page) == [
        "First line and second.",
        "An item's text.",
        "Still here.",
        "Shown again.",
        "A last word.",
    ]
