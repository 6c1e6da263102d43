"""digest.py - a short summary of a store, so that client and service can see in one answer whether they hold the same.

Each live document is hashed to 64 bits, and the hashes are added up: the sum doesn't depend on the order, and a store can keep
it up to date by subtracting what a document was and adding what it has become. Besides the sum over everything there are 256
sums by bucket of the id, so that in a large store only the buckets that differ need to be listed.

There are two halves of 32 bits, each a separate hash, since not every language has exact 64-bit integers. """

import struct

BUCKETS = 256
MASK = 0xFFFFFFFF
SEED_HI, SEED_LO = 0, 0x5BD1E995


def murmur3(data, seed=0):
    """MurmurHash3_x86_32 of bytes; client_test.py has test vectors."""
    h = seed
    blocks = len(data) // 4
    for k in struct.unpack_from(f'<{blocks}I', data):
        k = k * 0xCC9E2D51 & MASK
        k = (k << 15 | k >> 17) & MASK
        h ^= k * 0x1B873593 & MASK
        h = (h << 13 | h >> 19) & MASK
        h = h * 5 + 0xE6546B64 & MASK
    tail = data[blocks * 4:]
    if tail:
        k = int.from_bytes(tail, 'little') * 0xCC9E2D51 & MASK
        k = (k << 15 | k >> 17) & MASK
        h ^= k * 0x1B873593 & MASK
    h ^= len(data)
    h = (h ^ h >> 16) * 0x85EBCA6B & MASK
    h = (h ^ h >> 13) * 0xC2B2AE35 & MASK
    return h ^ h >> 16


def bucket_of(id):
    return murmur3(id.encode()) & (BUCKETS - 1)


def hash_document(id, version, utc):
    """(hi, lo) of a document as the service has it. The length of the id comes first, so that no two documents give the same
    text."""
    name = id.encode()
    data = b'%d:%b,%d,%b' % (len(name), name, version, utc.encode())
    return murmur3(data, SEED_HI), murmur3(data, SEED_LO)


def as_text(hi, lo):
    """As the service writes a sum."""
    return f'{hi & MASK:08x}{lo & MASK:08x}'
