"""What is private is marked, and what only looks like it stays."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.curation import get_curation
from input_pipeline.curation import privacy
from input_pipeline.curation.columns import Columns
from input_pipeline.curation.config import curation_config

OPTIONS = curation_config(get_curation().to_dict()).prose.privacy
law = settings(max_examples=150, derandomize=True, deadline=None)


def scrub(*texts, **changes):
  options = dataclasses.replace(OPTIONS, **changes)
  outcome = privacy.apply(Columns(texts), options)
  return outcome.texts or list(texts), outcome.counts


def key(prefix, length, alphabet='Ab3dEf7hIj'):
  """Built here, so that no scanner takes this file for a leak."""
  return prefix + (alphabet * length)[:length]


EMAILS = [
  'jane.doe+news@example.co.uk', 'x_1%y@sub.host-name.org', 'é@example.com',
]  # fmt: skip
ADDRESSES = [
  '8.8.8.8', '93.184.216.34', '2607:f8b0:4005:805::200e',
  '2a00:1450:4001:81b:0:0:0:200e',
]  # fmt: skip
PHONES = [
  '+1 (212) 555-0123', '+44 20 7946 0958', '+44 (0)20 7946 0958',
  '+493012345678', '+49 30 1234567', '+1.212.555.0123', '(212) 555-0123',
  '(212)555-0123', '212-555-0123', '212.555.0123', '1-800-555-0123',
  '01 23 45 67 89', '01.23.45.67.89', '020 7946 0958', '07911 123456',
  '089/12345678', '(089) 1234567', '+33 1 23 45 67 89',
]  # fmt: skip
SECRETS = [
  key('AKIA', 16, 'ABCDEFGHIJ234567'), key('ghp_', 36), key('github_pat_', 82),
  key('glpat-', 20), 'xoxb-' + '123456789012-' * 2 + 'abcDEF', key('AIza', 35),
  key('GOCSPX-', 28), key('sk_live_', 24), key('sk-ant-api03-', 40),
  key('sk-proj-', 40), key('sk-', 48), key('hf_', 34), key('npm_', 36),
  key('gsk_', 52), key('SG.', 22) + '.' + key('', 43),
  key('SK', 32, '0123456789abcdef'), key('123456789:AA', 33),
  key('eyJ', 20) + '.' + key('eyJ', 30) + '.' + key('', 43),
  key('dop_v1_', 64, '0123456789abcdef'), key('ya29.', 40),
  'https://hooks.slack.com/services/T00000000/B00000000/' + key('', 24),
  '-----BEGIN RSA PRIVATE KEY-----\n'
  + (key('MIIE', 60) + '\n') * 10
  + '-----END RSA PRIVATE KEY-----',
]  # fmt: skip
FORMS = [
  *(('email', '[EMAIL]', text) for text in EMAILS),
  *(('ip_address', '[IP_ADDRESS]', text) for text in ADDRESSES),
  *(('phone', '[PHONE]', text) for text in PHONES),
]


@pytest.mark.parametrize(('kind', 'mark', 'found'), FORMS)
@pytest.mark.parametrize(
  'frame', ['{}', 'a {}.', 'Call ({}), now', 'x: "{}"\n2 b', "<{}>,'{}'"]
)
def test_what_is_private_becomes_a_mark(kind, mark, found, frame):
  (before, text, after), counts = scrub('12', frame.format(found, found), '34')
  assert text == frame.format(mark, mark)
  assert (before, after) == ('12', '34')
  expected = dict.fromkeys(privacy.MARKS, 0) | {kind: frame.count('{}')}
  assert {name: int(counts[name].sum()) for name in counts} == expected
  assert counts[kind][1] == frame.count('{}')


@pytest.mark.parametrize('secret', SECRETS)
@pytest.mark.parametrize('frame', ['{}', 'key = "{}"', 'KEY={};', 'a {} b\n{}'])
def test_secrets_become_a_mark(secret, frame):
  (text,), counts = scrub(frame.format(secret, secret))
  found = text.replace('https://', '')
  assert found == frame.format('[SECRET]', '[SECRET]')
  assert counts['secret'].tolist() == [frame.count('{}')]


@pytest.mark.parametrize(
  'text',
  [
    # Dates, times, ranges.
    '2020-01-31 12:34:56', '31.12.1999', '01/02/2003 04:05', '1999-2004',
    '20200131123456', '2019-2020, 2021-2022',
    # Identifiers of books, articles, standards, cards of libraries.
    'ISBN 978-0-306-40615-7', 'ISBN 0-306-40615-2', '10.1145/3368089.3409742',
    'ISSN 2049-3630', 'arXiv:2112.11446', 'ISO 8601-1:2019',
    # Versions and sections.
    'version 1.2.3.4', 'Python 3.11.7', 'v10.20.30.40', 'pkg==1.2.3.4',
    'foo-1.2.3.4.tar.gz', 'Section 4.3.2.1', '1.2.3.4.5', '256.1.1.1',
    '127.0.0.1', '10.0.0.1', '192.168.1.1/24', '2001:db8::1', '::1', 'fe80::1',
    'std::vector', 'a::b', '12:34:56', '00:1a:2b:3c:4d:5e',
    # Numbers.
    '3.14159265358979', '1,234,567,890', '1 234 567 890', '12345678901234',
    '0x1234567890ab', 'deadbeef01234567', '1.5e+10', '+12345678', '-1234567890',
    '$1234567890', '100 200 300 400 500', '212 555 0123 4567 8901',
    '0.123-456-7890', 'id=212-555-0123', '4111 1111 1111 1111', '2**32-1',
    '550e8400-e29b-41d4-a716-446655440000', '1e9-1e10', '123-45-6789',
    '112-555-0123', '#2125550123', '90210-1234', '12-345-678901-2',
    # Mentions, decorators, matrix products.
    '@property', '@user hello', 'a @ b', 'a@b', 'user@localhost', 'x@1.2.3',
    # What begins like a secret.
    'sk-learn', 'task-' + 'a' * 40, 'AKIA is a prefix', 'hf_transfer',
    'ghp_short', 'eyJhbGciOiJIUzI1NiJ9', 'risk-' + key('', 40),
    '-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----',
    'if "-----BEGIN PRIVATE KEY-----" in text:',
    # The marks.
    '[EMAIL] [IP_ADDRESS] [PHONE] [SECRET]',
  ],
)  # fmt: skip
def test_what_only_looks_private_stays(text):
  for frame in ('{}', 'a {} b', '({})', 'x = {};'):
    (found,), counts = scrub(frame.format(text))
    assert found == frame.format(text)
    assert not any(count.any() for count in counts.values())


@pytest.mark.parametrize(
  'kind', ['emails', 'ip_addresses', 'phones', 'secrets']
)
def test_each_kind_has_its_switch(kind):
  samples = {
    'emails': EMAILS[0], 'ip_addresses': ADDRESSES[0], 'phones': PHONES[0],
    'secrets': SECRETS[0],
  }  # fmt: skip
  (text,), counts = scrub('\n'.join(samples.values()), **{kind: False})
  kept = [name for name, sample in samples.items() if sample in text]
  assert kept == [kind]
  assert len(counts) == 3


def test_texts_without_anything_private_are_left_alone():
  outcome = privacy.apply(Columns(['a', '', 'b 1']), OPTIONS)
  assert outcome.texts is None
  assert outcome.rule_D.tolist() == [-1, -1, -1]


PIECES = st.sampled_from(
  [*EMAILS, *ADDRESSES, *PHONES, *SECRETS, '@', '+', '12', '.', '-', ' ', '\n',
   ':', '(', ')', 'a', '2', 'sk-', '212', '/']
)  # fmt: skip
TEXTS = st.lists(st.lists(PIECES, max_size=8).map(''.join), max_size=4)


@law
@given(TEXTS)
def test_a_second_time_changes_nothing(texts):
  once, _ = scrub(*texts)
  twice, counts = scrub(*once)
  assert twice == once
  assert not any(count.any() for count in counts.values())


@law
@given(TEXTS)
def test_neighbours_do_not_matter(texts):
  together, counts = scrub(*texts)
  for place, text in enumerate(texts):
    (alone,), count = scrub(text)
    assert together[place] == alone
    for kind in counts:
      assert counts[kind][place] == count[kind][0]
