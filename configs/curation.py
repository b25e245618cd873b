"""The fields of `data.curation`, a part of base.py: what is cleaned and how.

A profile is a set of stages with thresholds for a kind of text. What a stage
does stands in docs/curation.md.
"""

from ml_collections import ConfigDict, config_dict


def get_curation() -> ConfigDict:
  """Returns the default: every stage described, none of them run."""
  curation = ConfigDict()
  # Profile of all documents: 'none' (only equal texts are left out), 'prose',
  # 'code' or 'docs'.
  curation.profile = 'none'
  # Other profiles for some sources: ('wiki=prose', 'github=code').
  curation.source_profiles = ()
  # Of documents with the same text, the one of the source that stands here
  # first is kept; sources that are not named come last.
  curation.source_priority = ()
  curation.prose = _prose()
  curation.code = _code()
  curation.docs = _docs()
  curation.quality_model = _quality_model()
  curation.near_duplicates = _near_duplicates()
  curation.contamination = _contamination()
  # Words of groups of people: ('women=she,her,woman', 'men=he,his,man'). The
  # data card says whether a stage removes documents that mention a group more
  # often than others.
  curation.term_groups = ()
  return curation


def _profile() -> ConfigDict:
  """All stages of a profile, off, with their published thresholds."""
  profile = ConfigDict()
  profile.normalise = _normalise()
  profile.language = _language()
  profile.gopher_quality = _gopher_quality()
  profile.gopher_repetition = _gopher_repetition()
  profile.c4 = _c4()
  profile.refinedweb = _refinedweb()
  profile.fineweb = _fineweb()
  profile.code_quality = _code_quality()
  profile.privacy = _privacy()
  # Remove a line that stands in an earlier document, if it has this many words
  # or more; None: off.
  profile.repeated_lines = config_dict.placeholder(int)
  # Leave out near-duplicates of other documents; see near_duplicates.
  profile.near_duplicates = True
  return profile


def _prose() -> ConfigDict:
  """Running text: web pages, books, articles."""
  profile = _profile()
  profile.language.enabled = True
  profile.gopher_quality.enabled = True
  profile.gopher_repetition.enabled = True
  profile.c4.enabled = True
  # FineWeb leaves this rule of C4 out: it removes 30 % of all tokens.
  profile.c4.end_punctuation = False
  profile.fineweb.enabled = True
  profile.privacy.enabled = True
  return profile


def _code() -> ConfigDict:
  """Source files."""
  profile = _profile()
  profile.normalise.repair_mojibake = False
  profile.code_quality.enabled = True
  profile.privacy.enabled = True
  # A number in code is seldom a telephone.
  profile.privacy.phones = False
  return profile


def _docs() -> ConfigDict:
  """Manuals and reference: prose with tables, lists and short lines."""
  profile = _profile()
  profile.gopher_quality.enabled = True
  profile.gopher_quality.min_words = 20
  profile.gopher_quality.max_symbol_ratio = 0.3
  profile.gopher_quality.max_bullet_lines = 1.0
  profile.gopher_quality.min_alphabetic_words = 0.6
  profile.privacy.enabled = True
  return profile


def _normalise() -> ConfigDict:
  """One form of each character; runs first."""
  normalise = ConfigDict()
  normalise.enabled = True
  # Mend text that was decoded wrongly, where that is detected (ftfy).
  normalise.repair_mojibake = True
  return normalise


def _language() -> ConfigDict:
  """The language that py3langid finds."""
  language = ConfigDict()
  language.enabled = False
  # ISO 639-1 codes of the languages to keep.
  language.keep = ('en',)
  # A document whose language is less probable than this is left out.
  language.min_probability = 0.65
  return language


def _gopher_quality() -> ConfigDict:
  """Rae et al. 2021 (Gopher), table A1."""
  rules = ConfigDict()
  rules.enabled = False
  rules.min_words = 50
  rules.max_words = 100_000
  # Mean number of characters of a word.
  rules.min_mean_word_length = 3.0
  rules.max_mean_word_length = 10.0
  # Of # and of ..., each by the number of words.
  rules.max_symbol_ratio = 0.1
  # Fractions of lines: those that start with a bullet, those that end in ... .
  rules.max_bullet_lines = 0.9
  rules.max_ellipsis_lines = 0.3
  # Fraction of words with a letter.
  rules.min_alphabetic_words = 0.8
  # Different words of: the be to of and that have with.
  rules.min_stop_words = 2
  return rules


def _gopher_repetition() -> ConfigDict:
  """Rae et al. 2021 (Gopher), table A1: what a text repeats of itself."""
  rules = ConfigDict()
  rules.enabled = False
  # Fractions of lines and of paragraphs that stood before, and the fractions of
  # characters in them.
  rules.max_duplicate_lines = 0.3
  rules.max_duplicate_paragraphs = 0.3
  rules.max_duplicate_line_characters = 0.2
  rules.max_duplicate_paragraph_characters = 0.2
  # Fraction of characters in the most frequent n-gram, n = 2, 3, 4.
  rules.max_top_2gram = 0.2
  rules.max_top_3gram = 0.18
  rules.max_top_4gram = 0.16
  # Fraction of characters in n-grams that occur again, n = 5 to 10.
  rules.max_duplicate_5grams = 0.15
  rules.max_duplicate_6grams = 0.14
  rules.max_duplicate_7grams = 0.13
  rules.max_duplicate_8grams = 0.12
  rules.max_duplicate_9grams = 0.11
  rules.max_duplicate_10grams = 0.1
  return rules


def _c4() -> ConfigDict:
  """Raffel et al. 2020 (C4), section 2.2."""
  rules = ConfigDict()
  rules.enabled = False
  # Keep only lines that end in . ? ! or a quotation mark, and not in ... .
  rules.end_punctuation = True
  # Remove lines of fewer words, and lines with a longer word.
  rules.min_words_per_line = 5
  rules.max_word_length = 1_000
  # Remove lines with 'javascript', and lines of privacy and cookie policies.
  rules.remove_policy_lines = True
  # Leave out documents of fewer sentences after that.
  rules.min_sentences = 3
  # Leave out documents with a curly bracket, and with 'lorem ipsum'.
  rules.no_curly_brackets = True
  rules.no_lorem_ipsum = True
  return rules


def _refinedweb() -> ConfigDict:
  """Penedo et al. 2023 (RefinedWeb), appendix G.2: line by line."""
  rules = ConfigDict()
  rules.enabled = False
  # A line with a greater fraction of capital letters is removed; so are lines
  # of numbers only, counters ('3 likes'), and lines of one word.
  rules.max_uppercase = 0.5
  # Lines of at most this many words that say "sign in", "read more", ... .
  rules.max_navigation_words = 10
  # A document that loses a greater fraction of its words is left out.
  rules.max_removed_words = 0.05
  return rules


def _fineweb() -> ConfigDict:
  """Penedo et al. 2024 (FineWeb), section 3.6."""
  rules = ConfigDict()
  rules.enabled = False
  # Fraction of lines that end in punctuation.
  rules.min_punctuated_lines = 0.12
  # Fraction of lines of at most 30 characters.
  rules.max_short_lines = 0.67
  rules.short_line_length = 30
  # Fraction of characters in lines that stood before (0.01 in their code).
  rules.max_duplicate_line_characters = 0.1
  # Line ends by words (in their code only).
  rules.max_lines_per_word = 0.3
  return rules


def _code_quality() -> ConfigDict:
  """Chen et al. 2021 (Codex), section 3.1, and Li et al. 2023 (StarCoder)."""
  rules = ConfigDict()
  rules.enabled = False
  # Characters of a line: on average, and of the longest.
  rules.max_mean_line_length = 100.0
  rules.max_line_length = 1_000
  # Fraction of characters that are letters or digits.
  rules.min_alphanumeric = 0.25
  return rules


def _privacy() -> ConfigDict:
  """What identifies a person or opens a door becomes a typed mark."""
  privacy = ConfigDict()
  privacy.enabled = False
  privacy.emails = True
  # Addresses that are reachable from everywhere; 10.0.0.1 stays.
  privacy.ip_addresses = True
  privacy.phones = True
  # Keys and tokens of well-known services, and private keys.
  privacy.secrets = True
  return privacy


def _quality_model() -> ConfigDict:
  """A classifier that is trained here: trusted text against all text."""
  model = ConfigDict()
  # Globs of text, .jsonl or .parquet files of trusted text; (): no model.
  model.trusted_files = ()
  # Documents of the source that stand for text of unknown quality.
  model.raw_documents = 20_000
  # Keep this fraction of the documents, the best ones; None: all.
  model.keep_fraction = config_dict.placeholder(float)
  # Keep the best documents up to about this many bytes; None: all.
  model.keep_bytes = config_dict.placeholder(int)
  return model


def _near_duplicates() -> ConfigDict:
  """MinHash and locality-sensitive hashing (Broder 1997)."""
  near = ConfigDict()
  # Jaccard similarity of the sets of word n-grams from which on two documents
  # count as the same. Bands and rows of the hash table follow from it.
  near.similarity = 0.8
  near.ngram = 5
  # Hash functions at most: more of them cut more sharply, and cost more.
  near.permutations = 128
  return near


def _contamination() -> ConfigDict:
  """Leave out documents that hold parts of evaluation texts."""
  contamination = ConfigDict()
  # ('gsm8k=evals/gsm8k/*.jsonl', 'mine=evals/mine.txt'); all strings of a
  # record count.
  contamination.evaluations = ()
  # Words in a row that make a hit (Brown et al. 2020, GPT-3, appendix C).
  contamination.ngram = 13
  return contamination
