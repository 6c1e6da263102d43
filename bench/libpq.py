"""libpq.py - the part of libpq that the benchmarks need, by ctypes.

Statements are prepared and parameters bound, as in good clients; Debian's drivers for Python put parameters into the
text of the statement. Only the call of libpq is timed: send, wait, receive.
"""

import ctypes
import time

lib = ctypes.CDLL('libpq.so.5')
for function in ('PQconnectdb', 'PQexec', 'PQprepare', 'PQexecPrepared', 'PQgetResult'):
    getattr(lib, function).restype = ctypes.c_void_p
for function in ('PQgetvalue', 'PQerrorMessage', 'PQresStatus'):
    getattr(lib, function).restype = ctypes.c_char_p

COMMAND_OK, TUPLES_OK, COPY_IN = 1, 2, 4


class Connection:
    """A connection to the server of the environment (PGHOST, ...), unless the connection string says otherwise."""

    def __init__(self, where=''):
        self.conn = ctypes.c_void_p(lib.PQconnectdb(where.encode()))
        if lib.PQstatus(self.conn) != 0:
            raise RuntimeError(lib.PQerrorMessage(self.conn).decode())
        self.statements = {}

    def close(self):
        lib.PQfinish(self.conn)

    def check(self, result, *expected):
        if lib.PQresultStatus(ctypes.c_void_p(result)) not in expected:
            raise RuntimeError(lib.PQerrorMessage(self.conn).decode())
        return ctypes.c_void_p(result)

    def query(self, sql):
        """Runs SQL and returns the rows as tuples of text."""
        result = self.check(lib.PQexec(self.conn, sql.encode()), COMMAND_OK, TUPLES_OK)
        rows = [tuple(lib.PQgetvalue(result, row, column).decode() for column in range(lib.PQnfields(result)))
                for row in range(lib.PQntuples(result))]
        lib.PQclear(result)
        return rows

    def run(self, sql, values):
        """Runs a statement, which is prepared when first used, and returns the seconds it took and the result."""
        name = self.statements.get(sql)
        if name is None:
            name = self.statements[sql] = b'statement %d' % len(self.statements)
            lib.PQclear(self.check(lib.PQprepare(self.conn, name, sql.encode(), 0, None), COMMAND_OK))
        array = (ctypes.c_char_p * len(values))(*values)
        start = time.perf_counter()
        result = lib.PQexecPrepared(self.conn, name, len(values), array, None, None, 0)
        seconds = time.perf_counter() - start
        return seconds, self.check(result, COMMAND_OK, TUPLES_OK)

    def call(self, sql, *values):
        """The same, but returns the seconds and the number of rows."""
        seconds, result = self.run(sql, values)
        count = lib.PQntuples(result)
        lib.PQclear(result)
        return seconds, count

    def answer(self, sql, *values):
        """The same, but returns the seconds and the length of the single value."""
        seconds, result = self.run(sql, values)
        length = lib.PQgetlength(result, 0, 0)
        lib.PQclear(result)
        return seconds, length

    def value(self, sql, *values):
        """The same, but returns the single value."""
        _, result = self.run(sql, values)
        text = lib.PQgetvalue(result, 0, 0)
        lib.PQclear(result)
        return text

    def copy(self, sql, chunks):
        """Runs COPY ... FROM STDIN and returns the seconds it took."""
        start = time.perf_counter()
        lib.PQclear(self.check(lib.PQexec(self.conn, sql.encode()), COPY_IN))
        for chunk in chunks:
            lib.PQputCopyData(self.conn, chunk, len(chunk))
        lib.PQputCopyEnd(self.conn, None)
        lib.PQclear(self.check(lib.PQgetResult(self.conn), COMMAND_OK))
        seconds = time.perf_counter() - start
        lib.PQgetResult(self.conn)
        return seconds
