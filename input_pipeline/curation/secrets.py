"""What keys and tokens of well-known services look like.

Each has a fixed beginning that its service publishes so that scanners find it.
"""

import re

# The shortest of them; a word that holds one is at least as long.
MIN_LENGTH = 20

_FORMS = (
  # Amazon Web Services: identifiers of access keys.
  r'(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}(?![A-Za-z0-9])',
  # GitHub: classic and fine-grained tokens.
  r'gh[pousr]_[A-Za-z0-9]{36,255}',
  r'github_pat_[A-Za-z0-9_]{22,255}',
  # GitLab.
  r'glpat-[\w-]{20,}',
  # Slack: tokens and addresses of webhooks.
  r'xox[abeoprs]-[A-Za-z0-9-]{10,}',
  r'hooks\.slack\.com/services/T\w{6,}/B\w{6,}/\w{16,}',
  # Google: API keys, client secrets, access tokens.
  r'AIza[\w-]{35}',
  r'GOCSPX-[\w-]{28}',
  r'ya29\.[\w-]{20,}',
  # Stripe.
  r'[rs]k_(?:live|test)_[A-Za-z0-9]{16,}',
  # Anthropic and OpenAI.
  r'sk-ant-[\w-]{20,}',
  r'sk-(?:proj|svcacct|admin)-[\w-]{20,}',
  r'sk-[A-Za-z0-9]{32,}',
  # Hugging Face.
  r'hf_[A-Za-z0-9]{30,}',
  # npm, DigitalOcean, Groq.
  r'npm_[A-Za-z0-9]{36}',
  r'do[opr]_v1_[0-9a-f]{64}',
  r'gsk_[A-Za-z0-9]{40,}',
  # SendGrid, Twilio, Telegram.
  r'SG\.[\w-]{22}\.[\w-]{43}',
  r'SK[0-9a-f]{32}(?![A-Za-z0-9])',
  r'\d{8,10}:AA[\w-]{33}',
  # JSON Web Tokens: '{"' in base64 starts the first two parts.
  r'eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}',
)
TOKEN = re.compile(rf'(?<![A-Za-z0-9])(?:{"|".join(_FORMS)})', re.ASCII)

PRIVATE_KEY_START = '-----BEGIN '
# A key of 16,384 bits takes some 13,000 characters.
PRIVATE_KEY = re.compile(
  r'-----BEGIN (?P<kind>[A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?)-----'
  r'(?:(?!-----).){40,20000}?'
  r'-----END (?P=kind)-----',
  re.DOTALL,
)
