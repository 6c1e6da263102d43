"""jsontext.py - JSON in which the bodies of documents stay text.

A body belongs to the user, and the sync doesn't look into it: it is cut out of the service's answer unchanged, kept as text,
sent as text, and parsed only when the user asks for the document. So one that a language's parser can't read - a number of
5,000 digits, arrays nested 2,000 deep - does no harm, and bodies are never altered: 1.10 stays 1.10, and a number beyond 2^53
stays exact, which parsing would round in other languages. """

import decimal
import json
import re

STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'
BODY = re.compile(rf'("body"\s*:\s*)|{STRING}', re.DOTALL)
SCALAR = re.compile(rf'{STRING}|[^][{{}},:"\s]+', re.DOTALL)
# Written so that it can match in one way only: otherwise a truncated one would be tried in all ways.
TO_BRACKET = re.compile(rf'[^][{{}}"]*(?:{STRING}[^][{{}}"]*)*([][{{}}])', re.DOTALL)
TOKEN = re.compile(rf'[][{{}},]|{STRING}|[^][{{}},:"\s]+', re.DOTALL)
ESCAPED_NUL = re.compile(r'(?<!\\)(?:\\\\)*\\u0000')


class BadAnswer(Exception):
    """What was received isn't an answer of the service: a proxy's page, something truncated, nothing. None of it was applied;
    try again later."""

    retry = True


def to_json(value):
    """The same text for the same value. Raises ValueError for what JSON can't represent or PostgreSQL can't store: it is
    refused here, when the user makes the edit."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(',', ':'), allow_nan=False)
    check_text(text)
    if ESCAPED_NUL.search(text):
        raise ValueError('a string has the character U+0000')
    return text


def check_text(text):
    if '\0' in text:
        raise ValueError('a string has the character U+0000')
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError('a string has half a surrogate pair') from None


def from_json(text):
    """Parses any JSON that PostgreSQL stores. A number too long for int or too large for float becomes a Decimal."""
    try:
        return _loads(text)
    except RecursionError:
        return _read_nested(text)


def _loads(text):
    return json.loads(text, parse_int=_int, parse_float=_float)


def _int(text):
    try:
        return int(text)
    except ValueError:      # longer than sys.get_int_max_str_digits()
        return decimal.Decimal(text)


def _float(text):
    value = float(text)
    return value if abs(value) != float('inf') else decimal.Decimal(text)


def _read_nested(text):
    """Without recursion, so to any depth."""
    root = []
    stack = [(root, None)]      # container, and in an object the key that waits for its value
    for match in TOKEN.finditer(text):
        token = match[0]
        container, key = stack[-1]
        if token in (']', '}'):
            stack.pop()
        elif token == ',':
            stack[-1] = container, None
        elif isinstance(container, dict) and key is None:
            stack[-1] = container, json.loads(token)
        else:
            value = [] if token == '[' else {} if token == '{' else _loads(token)
            if isinstance(container, dict):
                container[key] = value
            else:
                container.append(value)
            if token in ('[', '{'):
                stack.append((value, None))
    return root[0]


def documents_text(documents):
    """The documents of an upload, whose bodies are texts."""
    return '[' + ','.join(
        json.dumps({key: value for key, value in document.items() if key != 'body'}, ensure_ascii=False)[:-1]
        + (f', "body": {document["body"]}' if document.get('body') is not None else '') + '}'
        for document in documents) + ']'


def sync_text(parts, **arguments):
    """A sync of several collections. parts: {collection: (cursor, documents, digest or None)}."""
    texts = [json.dumps({'collection': collection, 'cursor': cursor, 'state': digest}, ensure_ascii=False)[:-1]
             + f', "documents": {documents_text(documents)}}}' for collection, (cursor, documents, digest) in parts.items()]
    return f'{json.dumps(arguments)[:-1]}, "collections": [{",".join(texts)}]}}'


def read_answer(text, *keys):
    """The service's answer, an object with these keys; the bodies of its documents and winners are texts (None for null, as in
    tombstones). Raises BadAnswer if it isn't that."""
    try:
        skeleton, bodies = _cut_out_bodies(text)
        answer = json.loads(skeleton, object_hook=lambda value: {**value, 'body': bodies[value['body']]}
                            if 'body' in value else value)
    except (ValueError, IndexError, TypeError, RecursionError) as error:
        raise BadAnswer(f'not an answer of the service: {error}: {text[:200]}') from None
    if not isinstance(answer, dict) or any(key not in answer for key in keys):
        raise BadAnswer(f'not an answer of the service: {text[:200]}')
    return answer


def _cut_out_bodies(text):
    """The text with a number in place of each body, and the bodies. Inside a body only its end is looked for."""
    parts, bodies, done, position = [], [], 0, 0
    while match := BODY.search(text, position):
        position = match.end()
        if not match[1]:
            continue            # another string: a key, or an id that happens to be "body"
        end = _end_of_value(text, position)
        parts += text[done:position], str(len(bodies))
        bodies.append(text[position:end] if text[position:end] != 'null' else None)
        done = position = end
    return ''.join(parts) + text[done:], bodies


def _end_of_value(text, position):
    if text[position:position + 1] not in ('[', '{'):
        if not (match := SCALAR.match(text, position)):
            raise ValueError('cut off')
        return match.end()
    depth = 0
    while match := TO_BRACKET.match(text, position):
        position = match.end()
        depth += 1 if match[1] in '[{' else -1
        if depth == 0:
            return position
    raise ValueError('cut off')
