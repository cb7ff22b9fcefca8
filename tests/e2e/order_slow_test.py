"""Ten million runs of each of nine shapes of stores and loads (guests/bare/c/order64.c), by two
processors and by four: no outcome that x86 processors do not have."""
import re

from harness import PASSED, PATIENCE, TestCase, main, run_bare

# Rounds of 2048 runs, in three halves of the address space.
ORDERS = 10_000_000 // (3 * 2048) + 1


class Order(TestCase):
    def sees_nothing_forbidden(self, cpus):
        result = run_bare("order", "--cpus", str(cpus), "--cmdline",
                          f"cpus={cpus} rounds=1 orders={ORDERS}", seconds=1200 * PATIENCE)
        self.assertEqual(result.returncode, PASSED, result.stdout + result.stderr)
        passed = re.findall(r"as they may: (\d+)", result.stdout)
        self.assertEqual(len(passed), 3, result.stdout)
        print(f"{cpus} processors: stores that passed later loads, which may be: {passed}")

    def test_two_processors(self):
        self.sees_nothing_forbidden(2)

    def test_four_processors(self):
        self.sees_nothing_forbidden(4)


if __name__ == "__main__":
    main()
