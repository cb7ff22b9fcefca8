"""doppel stats of VMs that run, and what a loaded host looks like from inside."""
import json
import os
import signal
import socket
import subprocess
import time

from harness import (BARE_SECONDS, DOPPEL, ENGINE, INITRAMFS, KERNEL, LINUX_SECONDS, TestCase,
                     bare, main)


class Stats(TestCase):
    def setUp(self):
        super().setUp()
        self.environment = {**os.environ, "XDG_RUNTIME_DIR": self.folder.name}

    def start(self, engine=ENGINE):
        process = subprocess.Popen([DOPPEL, "run", "--engine", engine, "--kernel", bare("console")],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, env=self.environment)
        for stream in (process.stdin, process.stdout, process.stderr):
            self.addCleanup(stream.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.assertEqual(process.stdout.readline(), b"ready\n")
        return process

    def stats(self, *arguments, **options):
        return subprocess.run([DOPPEL, "stats", *arguments], capture_output=True, text=True,
                              env=self.environment, timeout=BARE_SECONDS, **options)

    def socket(self, process):
        return os.path.join(self.folder.name, "doppel", f"{process.pid}.sock")

    def test_one_vm(self):
        process = self.start()
        self.assertEqual(os.stat(os.path.dirname(self.socket(process))).st_mode & 0o777, 0o700)
        text = self.stats()
        self.assertEqual(text.returncode, 0, text.stderr)
        self.assertIn(ENGINE, text.stdout)
        self.assertIn("time.halted_us", text.stdout)
        first, second = (json.loads(self.stats(str(process.pid), "--json").stdout)
                         for _ in range(2))
        self.assertGreater(second["wall_seconds"], first["wall_seconds"])
        self.assertGreater(first["counters"]["exits.io_write"], 0)
        process.stdin.close()
        process.wait(BARE_SECONDS)
        self.assertFalse(os.path.exists(self.socket(process)))
        nobody = self.stats()
        self.assertEqual(nobody.returncode, 2)
        self.assert_one_line(nobody.stderr)

    def test_watch_ends_with_the_vm(self):
        process = self.start()
        watch = subprocess.Popen([DOPPEL, "stats", "--json", "--watch", "0.1"],
                                 stdout=subprocess.PIPE, text=True, env=self.environment)
        self.addCleanup(watch.stdout.close)
        self.addCleanup(watch.kill)
        seconds = [json.loads(watch.stdout.readline())["wall_seconds"] for _ in range(3)]
        self.assertEqual(seconds, sorted(seconds))
        process.send_signal(signal.SIGTERM)
        self.assertEqual(watch.wait(BARE_SECONDS), 0)

    def test_several_vms_and_one_that_was_killed(self):
        vms = [self.start("interpret") for _ in range(3)]
        several = self.stats()
        self.assertEqual(several.returncode, 2)
        for vm in vms:
            self.assertIn(str(vm.pid), several.stderr)
        for vm in vms[:2]:
            vm.kill()
            vm.wait()
        self.assertTrue(os.path.exists(self.socket(vms[0])))
        dead = self.stats(str(vms[0].pid))
        self.assertEqual(dead.returncode, 2)
        self.assert_one_line(dead.stderr)
        self.assertEqual(self.stats().returncode, 0)
        self.assertFalse(os.path.exists(self.socket(vms[0])))

    def test_a_client_that_does_nothing(self):
        process = self.start()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.socket(process))
            self.assertEqual(self.stats().returncode, 0)
            client.send(b"stats\n" * 100)
            self.assertEqual(self.stats().returncode, 0)

    def test_no_place_for_a_socket(self):
        for place in ["/nonexistent", "/proc"]:
            self.environment["XDG_RUNTIME_DIR"] = place
            process = self.start()
            nobody = self.stats(str(process.pid))
            self.assertEqual(nobody.returncode, 3)
            self.assert_one_line(nobody.stderr)
            self.assertIn(place, nobody.stderr)
            process.stdin.close()
            self.assertEqual(process.wait(BARE_SECONDS), 0)

    def test_bad_usage(self):
        for arguments in [["x"], ["0"], ["1", "2"], ["--watch"], ["--watch", "0"], ["--watch=nan"],
                          ["--what"]]:
            result = self.stats(*arguments)
            self.assertEqual(result.returncode, 2, arguments)
            self.assert_one_line(result.stderr)

    def test_steal_time(self):
        processor = min(os.sched_getaffinity(0))

        def pinned():
            os.sched_setaffinity(0, {processor})

        others = [subprocess.Popen(["sh", "-c", "while :; do :; done"], preexec_fn=pinned)
                  for _ in range(2)]
        for other in others:
            self.addCleanup(other.wait)
            self.addCleanup(other.kill)
        count = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; head -1 /proc/stat"
        result = subprocess.run(
            [DOPPEL, "run", "--engine", ENGINE, "--kernel", KERNEL, "--initrd", INITRAMFS,
             "--cmdline", f'console=ttyS0 quiet doppel.run="{count}"'],
            capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL,
            preexec_fn=pinned, timeout=LINUX_SECONDS)
        line = next(line for line in result.stdout.splitlines() if line.startswith("cpu "))
        user, _, system, _, _, _, _, steal = map(int, line.split()[1:9])
        # Two others want the same processor; how much they get is the host's business.
        self.assertGreater(steal, (user + system) / 10, line)


if __name__ == "__main__":
    main()
