// The parts of Apple's Foundation that the guide uses, and Foundation on Linux lacks or cannot do.
import Foundation

func autoreleasepool<T>(_ body: () throws -> T) rethrows -> T { try body() }

extension FileManager {
    /// Replaces a directory, which Foundation on Linux refuses to do.
    func replaceItemAt(_ original: URL, withItemAt new: URL) throws -> URL? {
        let old = original.appendingPathExtension("old")
        try moveItem(at: original, to: old)
        try moveItem(at: new, to: original)
        try removeItem(at: old)
        return original
    }
}
