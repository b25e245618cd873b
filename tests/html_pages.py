"""What tests read HTML pages and their plots with."""

from html.parser import HTMLParser

VOID = {'meta', 'br', 'link'}


class Page(HTMLParser):
  """Checks the nesting, and keeps tags with attributes, and the text."""

  def __init__(self, html):
    super().__init__()
    self.tags, self.stack, self.texts = [], [], []
    self.feed(html)
    self.close()
    assert self.stack == [], self.stack

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in VOID:
      self.stack.append(tag)

  def handle_endtag(self, tag):
    assert self.stack.pop() == tag

  def handle_data(self, data):
    if self.stack and self.stack[-1] not in ('style', 'script'):
      self.texts.append(data)

  @property
  def text(self):
    return '\n'.join(self.texts)


def percent(text):
  assert text.endswith('%')
  return float(text[:-1]) / 100


def asks_for_nothing(html):
  """Whether a page fetches nothing when it is opened."""
  tags = Page(html).tags
  foreign = ('link', 'img', 'iframe', 'object', 'embed', 'base', 'use')
  sources = {'src', 'href', 'srcset', 'xlink:href', 'data', 'action'}
  return (
    "default-src 'none'" in html
    and 'url(' not in html
    and '@import' not in html
    and not any(tag in foreign or sources & set(held) for tag, held in tags)
  )
